//! The OpenAPI document, made from the routes themselves, and a page to read it.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{
    OpenApi as _, ToSchema,
    openapi::{
        ContentBuilder, OpenApi, Ref, ResponseBuilder, ResponsesBuilder,
        path::Operation,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    commands, events, fanout, files, health, identity, machines, metrics, sessions, targets, tunnel, wire,
};
use crate::{
    app::App,
    auth::COOKIE,
    error::{PROBLEM_JSON, ProblemBody},
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "fleetcore", description = "Run commands, open terminals and move files on every machine you have, \
        streamed live. Errors are problem documents (RFC 9457) with a stable `code`."),
    components(schemas(
        ProblemBody, wire::OutputEvent, wire::GapEvent, wire::StateEvent, wire::ExitEvent, wire::LoadEvent,
        wire::SessionClosed, wire::AuditNews, wire::FilesChanged, wire::KeyName, wire::MachineGone, wire::FanOutLine, wire::Agent,
        wire::AgentRemoved
    )),
    tags(
        (name = "targets", description = "What commands can run on"),
        (name = "machines", description = "Providers and the life of machines"),
        (name = "commands", description = "Commands: run, list, watch, control"),
        (name = "sessions", description = "Shells that belong to the server"),
        (name = "agents", description = "Hosts that have joined"),
        (name = "runtimes", description = "Runtimes of AI coding agents"),
        (name = "files", description = "Files of a target"),
        (name = "events", description = "Changes as they happen"),
        (name = "identity", description = "Logins, users, tokens, audit"),
        (name = "server", description = "Health and metrics")
    )
)]
struct Document;

/// All routes of the API with their documentation.
pub(crate) fn routes() -> OpenApiRouter<App> {
    let router = OpenApiRouter::with_openapi(Document::openapi());
    #[cfg(feature = "client")]
    let router = router.merge(super::agents::routes());
    #[cfg(feature = "openhands")]
    let router = router.merge(super::runtimes::routes::routes());
    router
        .routes(routes!(targets::list_targets))
        .routes(routes!(targets::get_target))
        .routes(routes!(targets::get_load))
        .routes(routes!(metrics::target_metrics))
        .routes(routes!(targets::ping_target))
        .routes(routes!(tunnel::open_tunnel))
        .routes(routes!(commands::create_command, commands::list_commands))
        .routes(routes!(commands::get_command))
        .routes(routes!(commands::signal_command))
        .routes(routes!(commands::cancel_command))
        .routes(routes!(commands::resize_command))
        .routes(routes!(commands::write_stdin, commands::close_stdin))
        .routes(routes!(commands::command_output))
        .routes(routes!(commands::command_cast))
        .routes(routes!(commands::attach_command))
        .routes(routes!(fanout::fan_out))
        .routes(routes!(machines::list_providers))
        .routes(routes!(machines::act_provider))
        .routes(routes!(machines::list_machines, machines::create_machine))
        .routes(routes!(machines::get_machine))
        .routes(routes!(machines::start_machine))
        .routes(routes!(machines::stop_machine))
        .routes(routes!(machines::delete_machine))
        .routes(routes!(machines::act_machine))
        .routes(routes!(sessions::create_session, sessions::list_sessions))
        .routes(routes!(sessions::get_session, sessions::close_session))
        .routes(routes!(sessions::run_in_session))
        .routes(routes!(sessions::resume_session))
        .routes(routes!(sessions::interrupt_session))
        .routes(routes!(sessions::send_keys))
        .routes(routes!(sessions::resize_session))
        .routes(routes!(sessions::session_screen))
        .routes(routes!(sessions::session_text))
        .routes(routes!(sessions::session_output))
        .routes(routes!(sessions::attach_session))
        .routes(routes!(files::read_file, files::write_file, files::remove_file))
        .routes(routes!(files::stat_file))
        .routes(routes!(files::list_files))
        .routes(routes!(files::make_dir))
        .routes(routes!(files::rename_file))
        .routes(routes!(files::read_tar, files::write_tar))
        .routes(routes!(events::events))
        .routes(routes!(identity::login))
        .routes(routes!(identity::logout))
        .routes(routes!(identity::me))
        .routes(routes!(identity::change_password))
        .routes(routes!(identity::list_tokens, identity::create_token))
        .routes(routes!(identity::remove_token))
        .routes(routes!(identity::list_users, identity::create_user))
        .routes(routes!(identity::change_user, identity::remove_user))
        .routes(routes!(identity::read_audit))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(health::info))
        .route("/api/v1/openapi.json", axum::routing::get(document))
        .route("/api/docs", axum::routing::get(page))
        .route("/api/docs/docs.js", axum::routing::get(script))
        .route("/api/docs/docs.css", axum::routing::get(style))
}

/// The OpenAPI 3.1 document of the API.
pub fn openapi() -> OpenApi {
    let mut api = routes().into_openapi();
    let problem = ResponseBuilder::new()
        .description("A problem document")
        .content(
            PROBLEM_JSON,
            ContentBuilder::new().schema(Some(Ref::from_schema_name(ProblemBody::name()))).build(),
        )
        .build();
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            complete(operation, &problem);
        }
    }
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(
        "token",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
    );
    components.add_security_scheme(
        "login",
        SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
            COOKIE,
            "Set by logging in. Requests that change something also need an Origin header of this server.",
        ))),
    );
    api
}

/// Every operation can fail, and needs a login unless it says otherwise.
fn complete(operation: &mut Operation, problem: &utoipa::openapi::Response) {
    let responses = std::mem::take(&mut operation.responses);
    operation.responses = ResponsesBuilder::new()
        .responses_from_iter(responses.responses)
        .response("default", problem.clone())
        .build();
    if operation.security.is_none() {
        let none: [&str; 0] = [];
        operation.security =
            Some(vec![SecurityRequirement::new("token", none), SecurityRequirement::new("login", none)]);
    }
}

async fn document() -> Response {
    static TEXT: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| openapi().to_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

async fn page() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("docs/docs.html")).into_response()
}
async fn script() -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("docs/docs.js")).into_response()
}
async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("docs/docs.css")).into_response()
}
