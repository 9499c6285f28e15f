"""Connections that a type checker must refuse."""

import mitogen.aio
import mitogen.master


def connect(router: mitogen.master.Router) -> None:
    router.ssh(hostnam="host")  # E: call-arg
    router.ssh()  # E: call-arg
    router.ssh("host")  # E: call-arg
    router.ssh(hostname="host", port="22")  # E: arg-type
    router.ssh(hostname="host", connect_timeout="3")  # E: arg-type
    router.ssh(hostname="host", via="bastion")  # E: arg-type
    router.ssh(hostname="host", sudo_path="sudo")  # E: call-arg
    router.sudo(preserve_env="yes")  # E: arg-type
    router.local(hostname="host")  # E: call-arg
    router.docker(pod="pod")  # E: call-arg
    router.fork(python_path="python3")  # E: call-arg
    router.shh(hostname="host")  # E: attr-defined
    print(router.local().nam)  # E: attr-defined
    name: int = router.local().name  # E: assignment
    print(name)


async def later(router: mitogen.aio.Router) -> None:
    print(router.ssh(hostname="host").context_id)  # E: attr-defined
    await router.ssh(hostname="host", prt=22)  # E: call-arg
    await router.shh(hostname="host")  # E: attr-defined
    context = await router.local()
    length: str = await context.call(len, "text")  # E: arg-type
    await context.call(len, 3)  # E: arg-type
    print(length)
