"""What schemathesis can't know: how lines of JSON and plugins look as bytes."""

import json
import os

import schemathesis

with open(os.environ["EDDY_PLUGIN"], "rb") as file:
    PLUGIN = file.read()


@schemathesis.serializer("application/x-ndjson")
def lines(_context, value):
    # Any text is a line of JSON; what is no text must be refused.
    return json.dumps(value).encode() if isinstance(value, str) else b"{"


@schemathesis.serializer("application/wasm")
def component(_context, value):
    return PLUGIN if isinstance(value, str) else b"no component"


@schemathesis.hook
def before_call(_context, case, _kwargs):
    # The lines have no field that could become the key.
    if case.media_type == "application/x-ndjson" and case.query:
        case.query.pop("key_field", None)
