"""
Become root on a host behind a jump host: ssh to the jump host, ssh to the target, sudo there.

Both hosts need only Python. Agent forwarding and tunnels are not needed, because the second ssh
runs *on* the jump host and uses the jump host's names, keys and known hosts.

Without options, two contexts on this machine stand in for the hosts, so the program runs anywhere.
It then skips sudo, unless it runs as root, which needs no password.

Run it:

    python3 examples/jumphost.py
    python3 examples/jumphost.py --jump bastion.example.com --target db1 --user admin
    python3 examples/jumphost.py --jump bastion --target db1 --ask-sudo-password
"""

import argparse
import getpass
import os

import mitogen


def whoami():
    """Return the account's name, and the distance from the program in contexts."""
    return getpass.getuser(), len(mitogen.parent_ids)


def hops(router, args):
    """Yield (description, context) for each hop; each is started via the previous one."""
    password = getpass.getpass("sudo password: ") if args.ask_sudo_password else None
    if args.jump:
        options = {
            "username": args.user,
            "port": args.port,
            "identity_file": args.identity_file,
            "check_host_keys": args.check_host_keys,
            "python_path": args.python,
        }
        jump = router.ssh(hostname=args.jump, **options)
        yield "jump host", jump
        target = router.ssh(hostname=args.target, via=jump, **options)
    else:
        jump = router.local(name="jump")
        yield "jump host", jump
        target = router.local(name="target", via=jump)
    yield "target", target
    if args.jump or os.geteuid() == 0:
        yield "root", router.sudo(via=target, password=password)


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jump", metavar="HOST", help="host reachable from this machine")
    parser.add_argument("--target", metavar="HOST", help="host reachable from the jump host")
    parser.add_argument("--user", help="account on both hosts (default: ssh's default)")
    parser.add_argument("--port", type=int, help="ssh port on both hosts (default: ssh's default)")
    parser.add_argument("--identity-file", help="private key, at the same path on both hosts")
    parser.add_argument(
        "--check-host-keys", choices=["enforce", "accept", "ignore"], default="enforce"
    )
    parser.add_argument("--python", help="interpreter on both hosts (default: found automatically)")
    parser.add_argument(
        "--ask-sudo-password", action="store_true", help="prompt for the sudo password"
    )
    args = parser.parse_args()
    if bool(args.jump) != bool(args.target):
        parser.error("--jump and --target must be given together")

    for what, context in hops(router, args):
        user, distance = context.call(whoami)
        print("%s: %s, %d away" % (what, user, distance), flush=True)
