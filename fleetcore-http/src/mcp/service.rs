//! What a client of the protocol talks to.

use std::{sync::Arc, time::Instant};

use axum::http::request::Parts;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, Implementation, ListToolsResult, PaginatedRequestParams,
        ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use tokio_util::task::TaskTracker;

use super::{
    answer::{done, failed},
    call::{Call, Progress},
    catalog,
    options::McpOptions,
};
use crate::client::Client;

/// What a model should know before it begins.
const INSTRUCTIONS: &str = "Runs commands, shells and file operations on the machines of a fleet. Begin with targets_list: \
    its names are the target of all other tools. run is for one command, session_open for a shell that keeps its state, \
    command_start for what takes long. Errors carry a code that says what to do: not_found, permission_denied, \
    invalid_input (context.field names the argument), unavailable and timeout (try again later).";

/// Who calls, and what the tools may do for them.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) client: Client,
    pub(super) options: Arc<McpOptions>,
}

/// The tools, for one connection.
#[derive(Clone)]
pub(super) struct FleetTools {
    /// Whose connection it is; `None` when each request says so.
    caller: Option<Caller>,
    /// Calls under way.
    calls: TaskTracker,
}

impl FleetTools {
    /// Tools for one caller.
    pub(super) fn of(caller: Caller, calls: TaskTracker) -> Self {
        Self { caller: Some(caller), calls }
    }

    /// Tools for whoever each HTTP request comes from.
    pub(super) fn of_requests(calls: TaskTracker) -> Self {
        Self { caller: None, calls }
    }

    fn caller(&self, context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
        let of_request = || context.extensions.get::<Parts>()?.extensions.get::<Caller>().cloned();
        let caller = self.caller.clone().or_else(of_request);
        caller.ok_or_else(|| ErrorData::internal_error("nobody knows who calls", None))
    }
}

impl ServerHandler for FleetTools {
    fn get_info(&self) -> ServerConfig {
        let name = Implementation::new("fleetcore", env!("CARGO_PKG_VERSION"));
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(name)
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let read_only = self.caller(&context)?.options.read_only;
        let offered = catalog::all().iter().filter(|e| e.reads() || !read_only);
        Ok(ListToolsResult::with_all_items(offered.map(|e| e.tool().clone()).collect()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        catalog::find(name).map(|e| e.tool().clone())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let entry = catalog::find(&request.name)
            .ok_or_else(|| ErrorData::invalid_params(format!("Unknown tool: {}", request.name), None))?;
        let caller = self.caller(&context)?;
        let progress = context.meta.get_progress_token().map(|token| Progress {
            peer: context.peer.clone(),
            token,
            began: Instant::now(),
        });
        let call =
            Call { client: caller.client, options: caller.options, stop: context.ct.clone(), progress };
        let args = request.arguments.unwrap_or_default();
        let outcome = self.calls.track_future(entry.call(Arc::new(call), args)).await;
        let result = match outcome {
            Ok(value) => done(value),
            Err(error) => failed(&error),
        };
        Ok(result.into())
    }
}
