#!/bin/bash
# Greets whoever the body names. The request is in variables: Http_Method, Http_Path, Http_Query and its headers.
read -r name
echo "Hello, ${name:-world}, from bash (${Http_Method:-} ${Http_Path:-})"
