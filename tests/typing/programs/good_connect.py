"""Connection methods take their own options and the common ones."""

import pathlib
from collections.abc import Iterator

import mitogen.core
import mitogen.master
import mitogen.parent
import mitogen.tree.many


def connect(router: mitogen.master.Router) -> mitogen.parent.Context:
    bastion = router.ssh(
        hostname="bastion",
        port=2222,
        identity_file=pathlib.Path("key"),
        ssh_args=["-4"],
        connect_timeout=5.0,
        name="bastion",
    )
    root = router.sudo(via=bastion, username="root", password="secret", python_path=["python3"])
    box = router.docker(via=root, container="box", remote_name="me")
    router.local(python_path="/usr/bin/python3", debug=True)
    router.su(username="ann")
    router.doas(password="secret")
    router.fork(on_fork=lambda: None)
    router.setns(container=1234, kind="pid")
    router.command(argv=["dzdo", "-u", "{username}"], username="oracle", tty=True)
    router.kubectl(pod="pod", namespace="space")
    router.lxd(container="box")
    pod: mitogen.parent.Context = router.podman(container="box")
    text: mitogen.parent.Context = router.from_spec("ssh:host/sudo:root")
    general: mitogen.parent.Context = router.connect("ssh", hostname="host", via=pod)
    print(text, general, box.context_id + 1)
    return box


def many(router: mitogen.master.Router) -> Iterator[str]:
    for result in router.connect_many(["ssh:one", "ssh:two"], limit=10):
        yield str(result.spec)


def own(broker: mitogen.core.Broker) -> None:
    with mitogen.master.Router(broker=broker, max_message_size=1 << 20) as router:
        number: int = router.allocate_id()
        router.disconnect(router.myself())
        print(number)
