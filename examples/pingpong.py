"""
Let two children send messages to each other without involving the code of this program.

A Receiver's Sender can be passed on like any other value, in an argument or in a message, and any
context that has it can send to the Receiver. This program introduces the players to each other and
then only waits for the results.

Run it:

    python3 examples/pingpong.py
    python3 examples/pingpong.py --rounds 1000
"""

import argparse

import mitogen
import mitogen.core


@mitogen.core.takes_router
def serve_first(introduce, rounds, router):
    """First player: send a number and wait for the next, `rounds` times; return those received."""
    with mitogen.core.Receiver(router) as table:
        introduce.send(table.to_sender())
        to_opponent = table.get().unpickle()

        heard = []
        ball = 0
        for _ in range(rounds):
            to_opponent.send(ball + 1)
            ball = table.get().unpickle()
            heard.append(ball)
        to_opponent.close()  # ends the opponent's loop
        return heard


@mitogen.core.takes_router
def return_all(to_opponent, router):
    """Second player: send each number back, increased by one, until the opponent closes."""
    with mitogen.core.Receiver(router) as table:
        to_opponent.send(table.to_sender())
        heard = []
        for message in table:
            ball = message.unpickle()
            heard.append(ball)
            to_opponent.send(ball + 1)
        return heard


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default 5)")
    args = parser.parse_args()
    if args.rounds < 0:
        parser.error("--rounds must be 0 or more")

    ping = router.local(name="ping")
    pong = router.local(name="pong")
    introductions = mitogen.core.Receiver(router)

    ping_result = ping.call_async(serve_first, introductions.to_sender(), args.rounds)
    to_ping = introductions.get().unpickle()
    pong_result = pong.call_async(return_all, to_ping)

    print("ping heard", ping_result.get().unpickle())
    print("pong heard", pong_result.get().unpickle())
