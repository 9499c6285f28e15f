"""The test hosts themselves, through plain ssh, sudo, su, doas: if these fail, look here first."""

import json
import os
import re
import socket
import subprocess
import time

import pytest

from tests import hosts, processes

ASK = re.compile(r"assword[^\n]*: ?\Z").pattern


def last_word(output):
    """Return the last word of a command's output, without the lines that ssh -t adds."""
    return re.sub(r"Connection to .* closed\.\s*\Z", "", output).split()[-1]


def run(argv, timeout=20, stdin=b""):
    """Return (exit status, stdout, stderr) of *argv*."""
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.ssh
class TestSshd:
    def test_logs_in_by_key(self, sshd):
        user = sshd.kwargs()["username"]
        status, output, _ = run(sshd.command(user, "id", "-un"))
        assert (status, output) == (0, user + "\n")
        assert "Accepted publickey for " + user in sshd.log()

    def test_processes_carry_the_mark_of_the_run(self, sshd):
        command = sshd.command(sshd.kwargs()["username"], "env")
        output = run(command)[1]
        assert "{}={}\n".format(processes.RUN_VARIABLE, os.getpid()) in output

    def test_wrong_and_unknown_host_keys_are_refused(self, sshd):
        user = sshd.kwargs()["username"]
        for known_hosts in (sshd.bad_known_hosts, sshd.no_known_hosts):
            options = ["-o", "StrictHostKeyChecking=yes", *sshd.ssh_args_for(known_hosts)]
            status, _, error = run(sshd.command(user, "true", options=options))
            assert status == 255
            assert "Host key verification failed" in error

    def test_the_same_configuration_returns_the_same_sshd(self, sshd, sshd_with):
        assert sshd_with() is sshd

    def test_extra_lines_are_in_the_configuration(self, sshd_with):
        forced = sshd_with("ForceCommand echo forced")
        assert run(forced.command(forced.kwargs()["username"], "id"))[1] == "forced\n"

    def test_silent_listener_accepts_and_sends_nothing(self):
        with hosts.silent_listener() as port:
            with socket.create_connection(("127.0.0.1", port), timeout=0.05) as sock:
                with pytest.raises(socket.timeout):
                    sock.recv(1)

    def test_closed_port_refuses(self):
        with hosts.closed_port() as port, pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)

    def test_stop_ends_sessions(self, hosts_directory, sshd_keys):
        server = hosts.Sshd(hosts_directory / "stopped", sshd_keys).start()
        command = server.command(server.kwargs()["username"], "echo up; exec cat")
        client = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert client.stdout.readline() == b"up\n"
            assert processes.process_tree(server.pid)
        finally:
            client.communicate(timeout=10)
        assert server.stop() == []
        assert hosts.read_banner(server.port) == b""


@pytest.mark.ssh
class TestDelay:
    def test_ssh_through_the_delay_proxy_counts_round_trips(self, sshd, tmp_path):
        count = tmp_path / "count"
        options = hosts.delay_proxy_args(50, str(count))
        start = time.monotonic()
        status, _, error = run(sshd.command(sshd.kwargs()["username"], "true", options=options))
        took = time.monotonic() - start
        assert status == 0, error
        counts = json.loads(count.read_text())
        # Versions, key exchange, authentication, session: OpenSSH 9 needs 9. More than one flight
        # for each would mean that the proxy waits, not ssh.
        assert 5 <= counts["up_flights"] <= 12
        assert took >= 0.05 * (counts["up_flights"] - 1)


@pytest.mark.root
@pytest.mark.ssh
class TestAccounts:
    def shell(self, sshd, user, command, **kwargs):
        return run(sshd.command(user.name, command), **kwargs)

    @pytest.mark.parametrize("kind", ["plain", "pw", "req", "su", "motd", "line", "csh", "fish"])
    def test_logs_in_by_key(self, sshd, users, kind):
        if kind not in users.users:
            pytest.skip("the shell of {!r} is not installed".format(kind))
        user = getattr(users, kind)
        status, output, _ = self.shell(sshd, user, "echo uid; id -u")
        assert status == 0
        assert output.endswith("uid\n{}\n".format(user.uid))

    def test_logs_in_by_password(self, sshd, users):
        command = ["ssh", "-p", str(sshd.port), "-o", "PubkeyAuthentication=no", *sshd.ssh_args]
        command += [users.pw.name + "@127.0.0.1", "id", "-u"]
        status, output = hosts.converse(command, [(ASK, users.pw.password)])
        assert status == 0, output
        assert last_word(output) == str(users.pw.uid)

    def test_wrong_password_is_refused(self, sshd, users):
        command = ["ssh", "-p", str(sshd.port), "-o", "PubkeyAuthentication=no", *sshd.ssh_args]
        command += ["-o", "NumberOfPasswordPrompts=1", users.pw.name + "@127.0.0.1", "true"]
        status, output = hosts.converse(command, [(ASK, "wrong")])
        assert status == 255
        assert "Permission denied" in output

    def test_motd_prints_on_stdout_and_stderr(self, sshd, users):
        status, output, error = self.shell(sshd, users.motd, "echo end")
        assert (status, output) == (0, "Welcome to the noisy host.\nend\n")
        assert "logged" in error

    def test_line_reads_one_line(self, sshd, users):
        assert self.shell(sshd, users.line, "cat", stdin=b"one\ntwo\n")[1] == "two\n"

    def test_eats_reads_four_kilobytes(self, sshd, users):
        output = self.shell(sshd, users.eats, "cat", stdin=b"x" * 4096 + b"rest")[1]
        assert output == "rest"

    def test_drain_reads_everything(self, sshd, users):
        assert self.shell(sshd, users.drain, "cat", stdin=b"anything")[:2] == (0, "")

    def test_menu_ignores_the_command_and_executes_its_input(self, sshd, users):
        output = self.shell(sshd, users.menu, "echo not this", stdin=b"echo executed\n")[1]
        assert output == "This account has a menu:\nexecuted\n"

    def test_refuse_prints_a_message_and_exits(self, sshd, users):
        status, output, _ = self.shell(sshd, users.refuse, "true")
        assert (status, output) == (7, "This account is for transfers only.\n")

    def test_sudo_without_password_keeps_the_mark(self, sshd, users):
        command = 'sudo -n sh -c "id -u; echo ${}"'.format(processes.RUN_VARIABLE)
        status, output, error = self.shell(sshd, users.plain, command.replace("$", r"\$"))
        assert (status, output.split()) == (0, ["0", str(os.getpid())]), error

    def test_sudo_with_password_asks_each_time(self, sshd, users):
        command = sshd.command(users.pw.name, "sudo", "id", "-u", options=["-tt"])
        for _ in range(2):
            status, output = hosts.converse(command, [(ASK, users.pw.password)])
            assert status == 0, output
            assert last_word(output) == "0"

    def test_sudo_that_requires_a_terminal(self, sshd, users):
        status, _, error = self.shell(sshd, users.req, "sudo -n id -u")
        assert status == 1
        assert "tty" in error
        command = sshd.command(users.req.name, "sudo", "-n", "id", "-u", options=["-tt"])
        assert last_word(hosts.converse(command)[1]) == "0"

    def test_su_with_password(self, sshd, users):
        command = sshd.command(
            users.plain.name, "su " + users.su.name + " -c 'id -u'", options=["-tt"]
        )
        status, output = hosts.converse(command, [(ASK, users.su.password)])
        assert status == 0, output
        assert last_word(output) == str(users.su.uid)

    def test_doas_asks_for_the_password(self, sshd, users):
        if not hosts.program("doas"):
            pytest.skip("needs opendoas (`doas` is not installed)")
        status, output, error = self.shell(sshd, users.plain, "doas id -u")
        assert (status, output) == (0, "0\n"), error
        command = sshd.command(users.pw.name, "doas", "id", "-u", options=["-tt"])
        status, output = hosts.converse(command, [(ASK, users.pw.password)])
        assert status == 0, output
        assert last_word(output) == "0"


@pytest.mark.root
class TestCleanup:
    def test_accounts_and_rules_of_a_killed_run_are_removed(self):
        gone = subprocess.Popen(["true"])
        gone.wait()
        name = "mito_plain_{}".format(gone.pid)
        with hosts.exclusively():
            hosts.run("useradd", "-m", name)
            hosts.edit_doas(str(gone.pid), ["permit nopass " + name])
        with hosts.exclusively():
            hosts.remove_stale_accounts()
        assert name not in open_text("/etc/passwd")
        assert str(gone.pid) not in open_text("/etc/doas.conf")
        assert not os.path.exists("/home/" + name)

    def test_doas_conf_keeps_other_rules(self, tmp_path, monkeypatch):
        path = tmp_path / "doas.conf"
        monkeypatch.setattr(hosts, "DOAS_CONF", path)
        hosts.edit_doas("1", ["permit a"])
        hosts.edit_doas("1", [])
        assert not path.exists()
        path.write_text("permit root\n")
        hosts.edit_doas("1", ["permit a"])
        hosts.edit_doas("2", ["permit b"])
        hosts.edit_doas("1", [])
        assert "permit a" not in path.read_text()
        assert "permit b" in path.read_text()
        hosts.edit_doas("2", [])
        assert path.read_text() == "permit root\n"


def open_text(path):
    """Return a file's text, '' if it does not exist."""
    try:
        with open(path) as fp:
            return fp.read()
    except FileNotFoundError:
        return ""


class TestPythons:
    def test_each_python_has_the_version_it_is_listed_under(self, pythons):
        assert any(version >= (3, 9) for version in pythons)
        for version, path in pythons.items():
            assert hosts.ask_version(path)[0] == version

    def test_usable_by_others_checks_each_directory(self, tmp_path):
        assert hosts.usable_by_others("/bin/sh")
        script = tmp_path / "x"
        script.touch(mode=0o755)
        tmp_path.chmod(0o700)
        assert not hosts.usable_by_others(str(script))


class TestConverse:
    def test_converse_answers_and_returns_the_status(self):
        script = "stty -echo; printf 'Password: '; read -r word; echo got $word; exit 3"
        status, output = hosts.converse(["sh", "-c", script], [(ASK, "secret")])
        assert status == 3
        assert "got secret" in output

    def test_converse_ends_at_its_timeout(self):
        with pytest.raises(AssertionError, match="no end"):
            hosts.converse(["sleep", "60"], timeout=0.1)


class TestProcesses:
    def test_process_tree_lists_descendants(self):
        argv = ["sh", "-c", "sleep 60 & echo; wait"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as shell:
            shell.stdout.readline()
            assert "sleep 60" in [each.cmdline for each in processes.process_tree(shell.pid)]
            tree = processes.process_tree(shell.pid)
            assert all(processes.alive(each.pid) for each in tree)
            assert shell.pid in [each.pid for each in processes.children()]
            assert shell.pid in [each.pid for each in processes.marked_processes(str(os.getpid()))]
            processes.end_processes([processes.process(shell.pid), *tree])
        assert not any(processes.alive(each.pid) for each in tree)

    def test_wait_until_raises_with_the_description(self):
        results = iter([0, "", "yes"])
        assert processes.wait_until(lambda: next(results)) == "yes"
        with pytest.raises(AssertionError, match="the moon"):
            processes.wait_until(lambda: False, timeout=0.01, what="the moon")
