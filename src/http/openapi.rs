//! The API's description in the form of OpenAPI 3.0, out of the types of its requests and answers.

use crate::api::TABLE;
use serde_json::{Map, Value, json};

fn of(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// The description. All actions share one address, and `Action` tells them apart.
pub fn openapi() -> Value {
    let mut types = schemars::generate::SchemaSettings::openapi3().into_generator();
    let (mut calls, mut answers, mut mapping) = (Vec::new(), Vec::new(), Map::new());
    let mut schemas = Map::new();
    for action in &TABLE {
        let (request, answer) = (action.schemas)(&mut types);
        let (call, response) = (format!("{}Call", action.name), format!("{}Response", action.name));
        let named =
            |name: &str| json!({ "type": "object", "properties": { "Action": { "type": "string", "enum": [name] } } });
        schemas.insert(call.clone(), json!({ "allOf": [of("Signed"), named(action.name), request] }));
        schemas.insert(format!("{response}Message"), json!({ "allOf": [of("Answered"), named(&response), answer] }));
        mapping.insert(action.name.to_owned(), format!("#/components/schemas/{call}").into());
        calls.push(of(&call));
        answers.push(of(&format!("{response}Message")));
    }
    schemas.extend(types.take_definitions(true));
    let text = json!({ "type": "string" });
    schemas.insert("Signed".to_owned(), json!({
        "type": "object",
        "required": ["Action", "PublicKey", "Signature"],
        "properties": { "Action": text, "PublicKey": text, "Signature": {
            "type": "string",
            "description": "Lower-case hex SHA-1 over all other parameters, sorted by name, each as name and value, and the private key.",
        } },
    }));
    schemas.insert("Answered".to_owned(), json!({
        "type": "object",
        "required": ["Action", "RetCode", "Message"],
        "properties": { "Action": text, "RetCode": { "type": "integer", "description": "0: done." }, "Message": text },
    }));
    // Of a call that failed, where nothing but this is sure to be there.
    answers.push(of("Answered"));
    let call = json!({ "schema": {
        "oneOf": calls, "discriminator": { "propertyName": "Action", "mapping": mapping },
    } });
    json!({
        "openapi": "3.0.3",
        "info": { "title": "snapdisk", "description": "Cloud disks and their snapshots.", "version": env!("CARGO_PKG_VERSION") },
        "paths": { "/api": { "post": {
            "operationId": "call",
            "requestBody": { "required": true, "content": {
                "application/json": call, "application/x-www-form-urlencoded": call,
            } },
            "responses": { "200": {
                "description": "Done or refused: RetCode says which.",
                "content": { "application/json": { "schema": { "anyOf": answers } } },
            } },
        } } },
        "components": { "schemas": schemas },
    })
}
