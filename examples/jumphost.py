"""
Reach root on a host behind another: ssh to the jump host, ssh on from there, sudo there.

Nothing but Python is needed on either host, and no agent forwarding or tunnel: the second ssh is
run *on* the jump host, so names, keys and known hosts are the jump host's.

With no options two contexts on this machine stand in for the hosts, so that it runs anywhere; sudo
is then left out unless this is root, who needs no password.

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
    """Return the account's name, and how many contexts away the program is."""
    return getpass.getuser(), len(mitogen.parent_ids)


def hops(router, args):
    """Yield (what it is, its context) for each hop, started by way of the one before."""
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
    parser.add_argument("--jump", metavar="HOST", help="host that can be reached from here")
    parser.add_argument("--target", metavar="HOST", help="host that can be reached from there")
    parser.add_argument("--user", help="account on both (default: what ssh takes)")
    parser.add_argument("--port", type=int, help="of ssh, on both (default: what ssh takes)")
    parser.add_argument("--identity-file", help="private key, in the same place on both")
    parser.add_argument(
        "--check-host-keys", choices=["enforce", "accept", "ignore"], default="enforce"
    )
    parser.add_argument("--python", help="interpreter on both (default: any that is found)")
    parser.add_argument("--ask-sudo-password", action="store_true", help="sudo wants one")
    args = parser.parse_args()
    if bool(args.jump) != bool(args.target):
        parser.error("--jump and --target go together")

    for what, context in hops(router, args):
        user, distance = context.call(whoami)
        print("%s: %s, %d away" % (what, user, distance), flush=True)
