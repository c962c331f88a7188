//! What is read from a request's body, and in which form an answer is wanted.

use std::time::Duration;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::{
    protobuf,
    status::{Refusal, Result},
};
use crate::{
    hub::limits,
    kinds::strict::{self, Decoded},
};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Form {
    pub shape: Shape,
    pub yaml: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    #[default]
    Whole,
    Table,
    /// PartialObjectMetadata, or a list of it.
    Metadata,
}

/// The first media type of `Accept` that the hub can answer in.
pub fn wanted(headers: &HeaderMap) -> Result<Form> {
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Form::default()) };
    let accept = accept.to_str().unwrap_or_default();
    if accept.trim().is_empty() {
        return Ok(Form::default());
    }
    let offered = "application/json, application/yaml";
    accept.split(',').find_map(form_of).ok_or_else(|| Refusal::not_acceptable(offered))
}

fn form_of(range: &str) -> Option<Form> {
    let mut parts = range.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
    let get = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let shape = match get("as") {
        None => Shape::Whole,
        // `v1beta1` of both is gone from Kubernetes; whoever lists it lists `v1` too.
        Some(_) if get("g") != Some("meta.k8s.io") || get("v") != Some("v1") => return None,
        Some("Table") => Shape::Table,
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Shape::Metadata,
        Some(_) => return None,
    };
    Some(Form { shape, yaml })
}

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
}

/// The bare media type, without parameters; empty where there is none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Of whole objects; a missing content type is JSON, since some clients send none.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding> {
    match media_type(headers) {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Encoding::Yaml),
        protobuf::MEDIA_TYPE => Err(protobuf::refusal()),
        "application/cbor" => Err(Refusal::unsupported_media_type("the hub does not read CBOR: send JSON or YAML")),
        other => Err(Refusal::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({other}): send application/json or application/yaml"
        ))),
    }
}

/// The whole body, within the limit of size. `patience` is for all of it: one that trickles in for ever is given up.
pub async fn read(headers: &HeaderMap, body: &mut Body, patience: Duration) -> Result<Bytes> {
    let too_large =
        || Refusal::too_large(format!("the request body is larger than the limit of {} bytes", limits::BODY_BYTES_MAX));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits::BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let collected = Limited::new(body, limits::BODY_BYTES_MAX).collect();
    match tokio::time::timeout(patience, collected).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refusal::bad_request(format!("the request body could not be read: {error}"))),
        Err(_) => Err(Refusal::request_timeout(format!("the request body did not end within {patience:?}"))),
    }
}

/// Keeps what is left of a request's body until its answer is sent. Letting it go resets the HTTP/2 stream, and a client
/// would see that instead of why it was refused.
pub fn outlasted(response: Response, request: Body) -> Response {
    response.map(|answer| {
        Body::new(answer.map_err(move |error| {
            let _ = &request;
            error
        }))
    })
}

/// A body as a value, with its duplicate keys.
pub fn decode(bytes: &[u8], encoding: Encoding) -> Result<Decoded> {
    let limits = strict::Limits { depth: limits::DEPTH_MAX, findings: limits::FAULTS_MAX };
    match encoding {
        Encoding::Json => {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes);
            let decoded = strict::decode(&mut deserializer, limits).and_then(|decoded| {
                deserializer.end()?;
                Ok(decoded)
            });
            decoded.map_err(|error| Refusal::bad_request(format!("the body is not valid JSON: {error}")))
        }
        Encoding::Yaml => {
            let options = serde_saphyr::options! {
                duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
            };
            let decoded = serde_saphyr::with_deserializer_from_slice_with_options(bytes, options, |deserializer| {
                strict::decode(deserializer, limits)
            });
            // Only the first line: the rest of the message draws the place with the user's text.
            let first_line = |error: serde_saphyr::Error| {
                let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
                let line = text.lines().next().unwrap_or_default().to_owned();
                Refusal::bad_request(format!("the body is not valid YAML: {line}"))
            };
            decoded.map_err(first_line)
        }
    }
}

/// An answer in the form that was asked for.
pub fn answer(code: StatusCode, form: Form, value: &Value) -> Response {
    let (content_type, bytes) = match form.yaml {
        true => ("application/yaml", serde_saphyr::to_string(value).unwrap_or_default().into_bytes()),
        false => ("application/json", value.to_string().into_bytes()),
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("header"));
        wanted(&headers).ok()
    }

    #[test]
    fn the_first_known_media_type_counts() {
        let json = Form::default();
        let table = Form { shape: Shape::Table, yaml: false };
        for (accept, expected) in [
            ("application/json", Some(json)),
            ("*/*", Some(json)),
            ("application/vnd.kubernetes.protobuf, application/json", Some(json)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some(table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", Some(json)),
            ("application/yaml", Some(Form { shape: Shape::Whole, yaml: true })),
            (
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
                Some(Form { shape: Shape::Metadata, yaml: false }),
            ),
            ("text/html", None),
            ("application/vnd.kubernetes.protobuf", None),
        ] {
            assert_eq!(form(accept), expected, "{accept}");
        }
    }

    #[test]
    fn bodies_that_cannot_be_read_are_refused_in_words() {
        let nested = "[".repeat(100_000);
        for (body, encoding) in [
            ("{", Encoding::Json),
            ("{} {}", Encoding::Json),
            (nested.as_str(), Encoding::Json),
            (nested.as_str(), Encoding::Yaml),
            ("a: [", Encoding::Yaml),
            ("a: b: c", Encoding::Yaml),
            ("\u{0}", Encoding::Yaml),
        ] {
            let refusal = decode(body.as_bytes(), encoding).expect_err("not a body");
            assert_eq!(refusal.code, StatusCode::BAD_REQUEST);
            assert!(refusal.message.starts_with("the body is not valid "), "{}", refusal.message);
        }
    }

    #[test]
    fn yaml_and_json_read_alike() {
        let yaml = "a: 1\nb: [true, null, 'x', 1.5]\nc: {d: e}\na: 2\n";
        let json = r#"{"a":1,"b":[true,null,"x",1.5],"c":{"d":"e"},"a":2}"#;
        let read = |text: &str, encoding| decode(text.as_bytes(), encoding).expect("a body");
        assert_eq!(read(yaml, Encoding::Yaml), read(json, Encoding::Json));
        assert_eq!(read(yaml, Encoding::Yaml).duplicates.len(), 1);
    }
}
