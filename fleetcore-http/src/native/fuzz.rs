//! Properties of what reads requests; see [`crate::fuzz`].

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use fleetcore::ErrorKind;
use serde::de::DeserializeOwned;

use super::{
    attach::{AttachQuery, frame::FromClient},
    output::{OutputQuery, last_event_id},
    range::{Wanted, wanted},
    wire,
};
use crate::{error::Problem, extract::parse_json};

fn one_header(name: HeaderName, value: &[u8]) -> Option<HeaderMap> {
    let value = HeaderValue::from_bytes(value).ok()?;
    Some(HeaderMap::from_iter([(name, value)]))
}

/// `Range`: what is granted is there, not empty, and what the header says.
pub(crate) fn range(value: &[u8], len: u64) {
    let Some(headers) = one_header(header::RANGE, value) else { return };
    let answer = wanted(&headers, len);
    if let Wanted::Part(part) = answer {
        assert!(part.start < part.end && part.end <= len, "{part:?} of {len}");
        // The same range in other words.
        let again = format!("bytes={}-{}", part.start, part.end - 1);
        assert_eq!(one_header(header::RANGE, again.as_bytes()).map(|h| wanted(&h, len)), Some(answer));
        let size = part.end - part.start;
        if part.end == len {
            let again = format!("bytes=-{size}");
            assert_eq!(one_header(header::RANGE, again.as_bytes()).map(|h| wanted(&h, len)), Some(answer));
        }
    }
    if len == 0 {
        assert!(!matches!(answer, Wanted::Part(_)));
    }
}

/// `Last-Event-ID`: a number as we write them, nothing, or a refusal; never another number.
pub(crate) fn last_id(value: &[u8]) {
    let Some(headers) = one_header(HeaderName::from_static("last-event-id"), value) else { return };
    let text = String::from_utf8_lossy(value);
    let text = text.trim_matches([' ', '\t']);
    match last_event_id(&headers) {
        Ok(None) => assert_eq!(text, ""),
        Ok(Some(id)) => {
            let digits = text.trim_start_matches('0');
            assert_eq!(if digits.is_empty() { "0" } else { digits }, id.to_string());
        }
        Err(_) => assert!(text.parse::<u64>().is_err() || text.starts_with('+'), "{text:?} is refused"),
    }
}

/// Frames of clients: understood, and then kept to the byte, or refused as bad input.
pub(crate) fn client_frame(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    match FromClient::parse(&frame) {
        Ok(FromClient::Input(rest) | FromClient::Ping(rest)) => assert_eq!(data.get(1..), Some(&rest[..])),
        Ok(FromClient::Resize(size)) => {
            assert!(size.cols > 0 && size.rows > 0);
            let [c, d] = size.cols.to_be_bytes();
            let [e, f] = size.rows.to_be_bytes();
            assert_eq!(data, [2, c, d, e, f]);
        }
        Ok(FromClient::Ack(offset)) => assert_eq!(data.get(1..), Some(&offset.to_be_bytes()[..])),
        Ok(FromClient::CloseInput) => assert_eq!(data.first(), Some(&4)),
        Ok(FromClient::Signal(_)) => assert_eq!(data.first(), Some(&6)),
        Err(e) => assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}"),
    }
}

/// JSON bodies: a value that passes all checks, or a problem that names a field.
pub(crate) fn body(data: &[u8]) {
    if let Some(mut command) = json::<wire::CreateCommand>(data) {
        check(command.spec().map(drop));
    }
    if let Some(session) = json::<wire::CreateSession>(data) {
        check(session.spec(None).map(drop));
    }
    if let Some(run) = json::<wire::RunInSession>(data) {
        check(run.wait.policy(std::time::Duration::MAX).map(drop));
    }
    let _ = json::<wire::WaitOn>(data);
    let _ = json::<wire::SendKeys>(data);
    let _ = json::<wire::SendSignal>(data);
    let _ = json::<wire::Size>(data).map(wire::Size::check);
    let _ = json::<wire::LoginRequest>(data);
    let _ = json::<wire::ChangePassword>(data);
    let _ = json::<wire::CreateToken>(data);
    let _ = json::<wire::CreateUser>(data);
    let _ = json::<wire::ChangeUser>(data);
    let _ = json::<wire::MakeDir>(data);
    let _ = json::<wire::Rename>(data);
}

fn json<T: DeserializeOwned>(data: &[u8]) -> Option<T> {
    match parse_json(data) {
        Ok(value) => Some(value),
        Err(problem) => {
            names_a_field(&problem);
            None
        }
    }
}

fn names_a_field(problem: &Problem) {
    assert_eq!(problem.status().as_u16(), 400, "{problem:?}");
    assert!(problem.body().context.get("field").is_some_and(|f| !f.is_empty()), "{problem:?}");
}

fn check(result: fleetcore::Result<()>) {
    if let Err(e) = result {
        assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
        assert!(e.context_value("field").is_some(), "{e:?}");
    }
}

/// Queries: read, or refused; never more than what is there.
pub(crate) fn query(text: &str) {
    let read = |text: &str| serde_html_form::from_str::<OutputQuery>(text);
    let _ = read(text);
    let _ = serde_html_form::from_str::<AttachQuery>(text);
    assert!(read(&format!("{text}&no_such_key=1")).is_err(), "an unknown key is refused");
}

/// For the client's side of the same properties.
#[cfg(feature = "client")]
mod for_client {
    use bytes::Bytes;
    use fleetcore::{OutputChunk, PtySize};

    use super::super::attach::frame::{FromClient, OutputFrame};

    pub(crate) use super::super::sse::OutputEncoder;

    pub(crate) fn output_frame(chunk: &OutputChunk) -> Bytes {
        let (first, rest) = chunk.data.split_at(chunk.data.len() / 2);
        let mut frame = OutputFrame::new(chunk.offset, chunk.channel, first, 0);
        frame.push(rest);
        frame.freeze()
    }

    pub(crate) fn heard_input(frame: &Bytes) -> Option<Bytes> {
        match FromClient::parse(frame) {
            Ok(FromClient::Input(data)) => Some(data),
            _ => None,
        }
    }

    pub(crate) fn heard_ack(frame: &Bytes) -> Option<u64> {
        match FromClient::parse(frame) {
            Ok(FromClient::Ack(offset)) => Some(offset),
            _ => None,
        }
    }

    pub(crate) fn heard_size(frame: &Bytes) -> Option<PtySize> {
        match FromClient::parse(frame) {
            Ok(FromClient::Resize(size)) => Some(size),
            _ => None,
        }
    }
}

#[cfg(feature = "client")]
pub(crate) use for_client::{OutputEncoder, heard_ack, heard_input, heard_size, output_frame};
