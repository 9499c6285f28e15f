"""Router.connect_many(): many connections at once, made by one thread."""

import pytest

import mitogen.core
from mitogen.tree import connecting, many
from tests import processes
from tests.integration.conftest import PYTHON, SOON, own_children
from tests.integration.far import work


def by_spec(results):
    return {str(spec): (context, error) for spec, context, error in results}


def test_each_result_has_its_spec(own_router):
    specs = [("local", {"name": "n%d" % n}) for n in range(12)]
    results = list(own_router.connect_many(specs))
    assert sorted(result.spec[1]["name"] for result in results) == sorted(
        s[1]["name"] for s in specs
    )
    for result in results:
        assert result.error is None and result.context.name == result.spec[1]["name"]
    assert len({result.context.call(work.identity)[0] for result in results}) == 12


def test_no_specs_give_no_results(own_router):
    assert list(own_router.connect_many([])) == []


def test_errors_are_results_and_do_not_affect_the_others(own_router):
    found = by_spec(
        own_router.connect_many(
            [
                ("local", {"python_path": "/no/such/python"}),
                ("local", {"name": "good"}),
                {"method": "local", "no_such_option": 1},
            ]
        )
    )
    errors = [error for _, error in found.values() if error]
    assert len(errors) == 2
    assert {type(error) for error in errors} == {mitogen.core.StreamError, TypeError}
    assert [c.call(work.echo, 1) for c, _ in found.values() if c] == [1]


def test_paths_share_their_first_hops(own_router):
    results = list(own_router.connect_many(["local/local", "local/local?name=x", "local"]))
    parents = {result.context.call(work.identity)[2] for result in results}
    near = [r.context for r in results if r.spec == "local"]
    assert len(near) == 1 and near[0].call(work.identity)[0] in parents
    assert len(own_router.get_streams()) == 1


def test_a_repeated_spec_gives_two_contexts(own_router):
    one, two = own_router.connect_many(["local", "local"])
    assert one.context != two.context


def test_hops_behind_a_failed_one_have_its_error(own_router):
    (result,) = own_router.connect_many(["local?python_path=%2Fno%2Fsuch/local"])
    assert result.context is None and "cannot start /no/such" in str(result.error)


def test_the_limit_is_kept(own_router, monkeypatch):
    seen = []
    start = many._Many._start

    def counting(self, hop):
        start(self, hop)
        seen.append(len(self.connecting))

    monkeypatch.setattr(many._Many, "_start", counting)
    assert len(list(own_router.connect_many(["local"] * 9, limit=2))) == 9
    assert max(seen) == 2


@pytest.mark.parametrize(
    "specs, error, text",
    [
        ([3], TypeError, "3 is not a connection spec"),
        ([("local",)], TypeError, "is not a connection spec"),
        (["no-such-method:x"], ValueError, "no-such-method"),
    ],
)
def test_a_bad_spec_is_refused_before_anything_starts(own_router, specs, error, text):
    with pytest.raises(error, match=text):
        own_router.connect_many(["local", *specs])
    assert not own_router.get_streams()


def test_a_bad_limit_is_refused(own_router):
    with pytest.raises(ValueError, match="limit=0"):
        own_router.connect_many(["local"], limit=0)


def test_closing_the_iterator_leaves_only_returned_contexts():
    before = own_children()
    with mitogen.master.Router() as router:
        results = router.connect_many(["local", "local/local", "local/local", "local"])
        first = next(results)
        results.close()
        assert first.context.call(work.echo, 1) == 1

        def alone():
            return len(own_children() - before) == 1

        processes.wait_until(alone, SOON)
        assert not router.branch.logins._entered


def test_logins_stay_below_an_sshds_limits(own_router, sshd_with, users):
    """sshd's default is MaxStartups 10:30:100."""
    sshd = sshd_with("MaxStartups 10:100:11")
    kwargs = sshd.kwargs(username=users.plain.name, python_path=PYTHON)
    results = list(own_router.connect_many([("ssh", kwargs)] * 24))
    assert [result.error for result in results] == [None] * 24
    assert connecting.MAX_LOGINS < 10 and not own_router.branch.logins._entered


def test_contexts_behind_another_are_its_children(own_router):
    near = own_router.local()
    specs = [("local", {"via": near}) for _ in range(6)]
    contexts = [result.context for result in own_router.connect_many(specs)]
    assert {c.call(work.identity)[2] for c in contexts} == {near.call(work.identity)[0]}


def test_a_child_can_connect_many(own_router):
    from tests.integration.far import connecting

    assert own_router.local().call(connecting.connect_some, 4) == 4


def test_broker_shutdown_ends_the_iterator():
    router = mitogen.master.Router()
    results = router.connect_many(["local"] * 3)
    next(results)
    router.broker.shutdown()
    router.broker.join()
    assert all(result.error for result in results)
