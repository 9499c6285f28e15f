"""An action plugin of a collection: runs a module twice, with its own temporary directory."""

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = {"words": ["action", *self._task.args.get("words", [])]}
        for number in ("first", "second"):
            result[number] = self._execute_module(
                module_name="bed.things.joiner", module_args=arguments, task_vars=task_vars
            )
        shell = self._low_level_execute_command("echo low; echo level >&2; exit 3")
        result["low_level"] = {name: shell[name] for name in ("rc", "stdout", "stderr")}
        home = self._remote_expand_user("~")
        result["home"] = home
        result["exists"] = self._remote_file_exists("/etc/passwd")
        result["missing"] = self._remote_file_exists("/no/such/file")
        return result
