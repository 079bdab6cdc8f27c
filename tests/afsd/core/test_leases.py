"""Ends of leases by place and by host, against a plain set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from afsd.core.leases import Leases

places = st.integers(1, 3)
hosts = st.sampled_from("abc")
steps = st.one_of(
    st.tuples(st.just("put"), places, hosts, st.integers(0, 9)),
    st.tuples(st.just("take"), places),
    st.tuples(st.just("strike_out"), hosts),
    st.tuples(st.just("sweep"), st.integers(0, 9)),
)


@given(st.lists(steps, max_size=30))
def test_leases_are_where_they_were_put(story: list[tuple[object, ...]]) -> None:
    """Whatever is put, taken, struck out and swept, on both sides of the books."""
    leases: Leases[int] = Leases()
    naive: dict[tuple[int, str], float] = {}
    for step in story:
        match step:
            case ("put", int(where), str(host), int(end)):
                leases.put(where, host, end)
                naive[where, host] = end
            case ("take", int(where)):
                expected = {host: end for (at, host), end in naive.items() if at == where}
                assert leases.take(where) == expected
                naive = {key: end for key, end in naive.items() if key[0] != where}
            case ("strike_out", str(host)):
                leases.strike_out(host)
                naive = {key: end for key, end in naive.items() if key[1] != host}
            case ("sweep", int(now)):
                leases.sweep(now)
                naive = {key: end for key, end in naive.items() if end > now}
        seen = {(at, host): end for at, there in leases.items() for host, end in there.items()}
        assert seen == naive
        assert len(leases) == len({at for at, _ in naive})
        assert all(leases.at(at).get(host) == end for (at, host), end in naive.items())
        assert {host: set(at) for host, at in leases._places.items()} == {
            host: {at for at, other in naive if other == host} for _, host in naive
        }
