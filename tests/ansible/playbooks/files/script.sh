#!/bin/sh
echo "arguments: $#: $1, $2"
echo "in $(basename "$(pwd)")" >&2
exit "${STATUS:-0}"
