//! Properties of every parser of outside data in this crate: what `fleetcore-http/fuzz` feeds with whatever it can think
//! of, and the ordinary tests with random data. Only with `--cfg fuzzing` and in tests.
//!
//! Each function panics when the property does not hold.

/// `Range` headers over a body of `len` bytes.
pub fn range(value: &[u8], len: u64) {
    crate::native::fuzz::range(value, len);
}

/// `Last-Event-ID` headers.
pub fn last_event_id(value: &[u8]) {
    crate::native::fuzz::last_id(value);
}

/// Frames of attached clients.
pub fn client_frame(data: &[u8]) {
    crate::native::fuzz::client_frame(data);
}

/// JSON bodies of all requests.
pub fn body(data: &[u8]) {
    crate::native::fuzz::body(data);
}

/// Queries of streams.
pub fn query(text: &str) {
    crate::native::fuzz::query(text);
}

/// `Cookie` and `Authorization` headers.
pub fn credentials(first: &[u8], second: &[u8]) {
    crate::auth::fuzz::credentials(first, second);
}

/// `Origin` and `Host` headers.
pub fn origins(origin: &str, host: &str) {
    crate::auth::fuzz::origins(origin, host);
}

/// `X-Forwarded-For` headers.
pub fn forwarded(value: &[u8]) {
    crate::auth::fuzz::forwarded(value);
}

/// Blocks of addresses in settings.
pub fn network(text: &str, other: u128) {
    crate::auth::fuzz::network(text, other);
}

/// Attach frames of servers, separated by the byte `0xfe`.
#[cfg(feature = "client")]
pub fn server_frames(data: &[u8], from: Option<u64>) {
    crate::client::fuzz::server_frames(data, from);
}

/// Server-sent events, cut into pieces of `cut` bytes.
#[cfg(feature = "client")]
pub fn events(cut: usize, data: &[u8]) {
    crate::client::fuzz::events(cut, data);
}

/// Output from the server's encoders through the client's decoders.
#[cfg(feature = "client")]
pub fn there_and_back(cuts: &[u8], cut: usize, data: &[u8]) {
    crate::client::fuzz::there_and_back(cuts, cut, data);
}

/// Input from the client's encoders through the server's decoder.
#[cfg(feature = "client")]
pub fn to_the_server(data: &[u8], cols: u16, rows: u16, offset: u64) {
    crate::client::fuzz::to_the_server(data, cols, rows, offset);
}

/// Problem documents.
#[cfg(feature = "client")]
pub fn problems(data: &[u8], status: u16) {
    crate::client::fuzz::problems(data, status);
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..most)
    }

    /// Text that looks right for a while, and bytes that do not.
    fn nearly(pattern: &'static str) -> impl Strategy<Value = Vec<u8>> {
        let good = proptest::string::string_regex(pattern).unwrap().prop_map(String::into_bytes).boxed();
        let spoilt =
            (good.clone(), any::<u8>(), any::<prop::sample::Index>()).prop_map(|(mut text, byte, at)| {
                let at = at.index(text.len() + 1);
                text.insert(at, byte);
                text
            });
        prop_oneof![4 => good, 2 => spoilt, 1 => bytes(60)]
    }

    fn nearly_text(pattern: &'static str) -> impl Strategy<Value = String> {
        nearly(pattern).prop_map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    fn offset() -> impl Strategy<Value = u64> {
        prop_oneof![0..100u64, any::<u64>(), u64::MAX - 100..=u64::MAX]
    }

    const HOST: &str = r"[a-zA-Z0-9.\[\]:]{0,12}(:(80|443|7070|[0-9]{0,5}))?";

    proptest! {
        #[test]
        fn range(value in nearly(r"(bytes|Bytes|lines)? ?= ?[0-9]{0,3}-[0-9]{0,21}(,[0-9]-[0-9])?"), len in offset()) {
            super::range(&value, len);
        }

        #[test]
        fn last_event_id(value in nearly(r"[ \t+-]?[0-9]{0,21} ?")) {
            super::last_event_id(&value);
        }

        #[test]
        fn client_frame(kind in 0..9u8, rest in prop_oneof![bytes(12), nearly("interrupt|kill|hangup|user1")]) {
            super::client_frame(&[&[kind][..], &rest].concat());
            super::client_frame(&rest);
        }

        #[test]
        fn body(data in nearly(
            r#"\{"(argv|shell|id|pty|cols|env|wait|command|keys|signal|path|user)":("[a-z\\0]{0,3}"|[0-9]{1,6}|\["","x"\]|\{"cols":[0-9]\}|null)(,"(argv|rows|stdin|merge|timeout_ms|password)":(true|false|[0-9]{1,21}|\["ls"\]))?\}"#
        )) {
            super::body(&data);
        }

        #[test]
        fn query(text in nearly_text("(from=[0-9]{0,21}|from=end|follow=(true|1)|channel=[a-z]{0,6}|input=x|&){0,4}")) {
            super::query(&text);
        }

        #[test]
        fn credentials(
            first in nearly("(fleetcore_login=[a-z]{0,4};? ?|a=b; |[Bb]earer  ?fct_[a-z]{0,3} ?){0,3}"),
            second in nearly("(fleetcore_login=[a-z]{0,4};? ?|a=b; ){0,3}"),
        ) {
            super::credentials(&first, &second);
        }

        #[test]
        fn origins(scheme in "(https?|null|ftp)(://)?", authority in nearly_text(HOST), host in nearly_text(HOST)) {
            super::origins(&format!("{scheme}{authority}"), &host);
            super::origins(&format!("{scheme}{host}"), &host);
        }

        #[test]
        fn forwarded(value in nearly("((10|127|300)\\.0\\.0\\.[0-9]{1,3}|::1|::ffff:10\\.0\\.0\\.1|unknown|,| ){0,6}")) {
            super::forwarded(&value);
        }

        #[test]
        fn network(text in nearly_text("(10\\.0\\.0\\.1|::1|::ffff:10\\.0\\.0\\.1|fe80::)(/[0-9]{0,3})?"), other in any::<u128>()) {
            super::network(&text, other);
        }
    }

    #[cfg(feature = "client")]
    proptest! {
        #[test]
        fn server_frames(
            frames in vec((1..8u8, offset(), offset(), 0..5u8, bytes(8)), 0..6),
            from in prop::option::of(offset()),
        ) {
            let mut data = vec![];
            for (kind, a, b, channel, rest) in frames {
                data.push(kind);
                match kind {
                    1 => {
                        data.extend(a.to_be_bytes());
                        data.push(channel);
                    }
                    2 => {
                        data.extend(a.to_be_bytes());
                        data.extend(b.to_be_bytes());
                    }
                    _ => data.extend(br#"{"state":"failed","code":1}"#),
                }
                data.extend(rest);
                data.push(0xfe);
            }
            super::server_frames(&data, from);
        }

        #[test]
        fn events(cut in 1..40usize, data in vec(nearly(
            "(id: [0-9]{1,3}\n|event: ?(output|gap|exit|state|load|lagged)\r?\n|data: ?\\{\"(from|to|missed|offset)\":[0-9]{1,3}\\}\n|: x\n|\n){0,5}"
        ), 0..4)) {
            super::events(cut, &data.concat());
        }

        #[test]
        fn there_and_back(
            cuts in bytes(40),
            cut in 1..200usize,
            data in prop_oneof![bytes(300), ".{0,80}".prop_map(String::into_bytes)],
        ) {
            super::there_and_back(&cuts, cut, &data);
        }

        #[test]
        fn to_the_server(data in bytes(40), cols in any::<u16>(), rows in 0..3u16, offset in offset()) {
            super::to_the_server(&data, cols, rows, offset);
        }

        #[test]
        fn problems(data in nearly(
            r#"\{"code":"[a-z_]{0,12}","detail":"x","operation":"[a-z]{0,3}","context":\{"a":[0-9]\},"retry_after_ms":[0-9]{1,21}\}"#
        ), status in 0..1100u16) {
            super::problems(&data, status);
        }
    }
}
