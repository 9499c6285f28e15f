"""Callback plugin that writes every task result to the file BED_RESULTS, one JSON object a line.

It is loaded by ansible-core 2.16 to 2.21, in the controller's main process; it changes nothing and
prints nothing. `types` has, by path, the class of each value that JSON represents like a plain one
(AnsibleUnsafeText is a str), so that a lost unsafe mark is visible.
"""

import json
import os

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: bed_results
    type: notification
    short_description: writes every task result to a file
    description: Writes every task result to the file in the variable BED_RESULTS, as lines of JSON.
"""

PLAIN = (str, bool, int, float, type(None))
CONTAINERS = {dict: "dict", list: "list", tuple: "list"}


def plain(value, path, types):
    """Return *value* in JSON's own types; add other types to *types*, by path."""
    if isinstance(value, dict):
        copy = {}
        for key, item in value.items():
            name = str(key) if isinstance(key, str) else repr(key)
            copy[name] = plain(item, path + "." + name if path else name, types)
        return copy
    if isinstance(value, (list, tuple)):
        return [plain(item, "{}[{}]".format(path, n), types) for n, item in enumerate(value)]
    if type(value) in PLAIN:
        return value
    types[path] = type(value).__name__
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, PLAIN):
        return json.loads(json.dumps(value))
    return repr(value)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "bed_results"

    def __init__(self):
        super().__init__()
        self.file = open(os.environ["BED_RESULTS"], "w", encoding="utf-8", errors="surrogateescape")

    def write(self, **record):
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def record(self, event, result, **more):
        task, types = result._task, {}
        data = plain(result._result, "", types)
        self.write(
            event=event,
            host=result._host.get_name(),
            task=str(task.get_name()),
            action=str(task.action),
            item=repr(data.get("_ansible_item_label", data.get("item"))),
            result=data,
            types=types,
            **more,
        )

    def v2_runner_on_ok(self, result):
        self.record("ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.record("failed", result, ignored=bool(ignore_errors))

    def v2_runner_on_skipped(self, result):
        self.record("skipped", result)

    def v2_runner_on_unreachable(self, result):
        self.record("unreachable", result)

    def v2_runner_item_on_ok(self, result):
        self.record("item ok", result)

    def v2_runner_item_on_failed(self, result):
        self.record("item failed", result)

    def v2_runner_item_on_skipped(self, result):
        self.record("item skipped", result)

    def v2_runner_retry(self, result):
        self.record("retry", result)

    def v2_runner_on_async_poll(self, result):
        self.record("poll", result)

    def v2_runner_on_async_ok(self, result):
        self.record("async ok", result)

    def v2_runner_on_async_failed(self, result):
        self.record("async failed", result)

    def v2_playbook_on_notify(self, handler, host):
        self.write(event="notify", host=host.get_name(), task=str(handler.get_name()))

    def v2_playbook_on_stats(self, stats):
        for host in sorted(stats.processed):
            summary = {name: int(count) for name, count in stats.summarize(host).items()}
            self.write(event="stats", host=str(host), result=summary)
        self.file.close()
