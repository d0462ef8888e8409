//! HTTP server and client for fleetcore.
