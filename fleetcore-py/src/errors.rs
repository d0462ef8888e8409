//! One exception tree; `code` carries the stable name of the kind.

use ::fleetcore as core_;
use pyo3::{create_exception, exceptions::PyException, prelude::*};

create_exception!(fleetcore, FleetError, PyException, "Base of all fleetcore errors; `code` names the kind.");
create_exception!(
    fleetcore,
    InvalidInputError,
    FleetError,
    "An argument breaks a rule; the text names both."
);
create_exception!(fleetcore, AuthenticationError, FleetError, "No or bad credentials.");
create_exception!(fleetcore, AccessDeniedError, FleetError, "Not allowed.");
create_exception!(fleetcore, NotFoundError, FleetError, "No such thing.");
create_exception!(fleetcore, AlreadyExistsError, FleetError, "The name is taken.");
create_exception!(fleetcore, BusyError, FleetError, "Occupied by another operation.");
create_exception!(fleetcore, InvalidStateError, FleetError, "The state of the object forbids it.");
create_exception!(fleetcore, ConflictError, FleetError, "Somebody else changed it first.");
create_exception!(fleetcore, RateLimitedError, FleetError, "Too much at once.");
create_exception!(fleetcore, UnsupportedError, FleetError, "The backend cannot do this.");
create_exception!(fleetcore, UnavailableError, FleetError, "Cannot be reached now.");
create_exception!(fleetcore, FleetTimeoutError, FleetError, "A deadline passed.");
create_exception!(fleetcore, CommandFailedError, FleetError, "A checked command failed.");

/// The exception for an error of the core.
pub(crate) fn to_py(error: core_::Error) -> PyErr {
    use core_::ErrorKind as K;
    let text = error.to_string();
    let exception = match error.kind() {
        K::InvalidInput => InvalidInputError::new_err(text),
        K::Unauthenticated => AuthenticationError::new_err(text),
        K::PermissionDenied => AccessDeniedError::new_err(text),
        K::NotFound => NotFoundError::new_err(text),
        K::AlreadyExists => AlreadyExistsError::new_err(text),
        K::Busy => BusyError::new_err(text),
        K::InvalidState => InvalidStateError::new_err(text),
        K::Conflict => ConflictError::new_err(text),
        K::RateLimited => RateLimitedError::new_err(text),
        K::Unsupported => UnsupportedError::new_err(text),
        K::Unavailable => UnavailableError::new_err(text),
        K::Timeout => FleetTimeoutError::new_err(text),
        K::CommandFailed => CommandFailedError::new_err(text),
        _ => FleetError::new_err(text),
    };
    Python::attach(|py| {
        // Setting an attribute on a fresh exception cannot fail.
        let _ = exception.value(py).setattr("code", error.kind().code());
    });
    exception
}
