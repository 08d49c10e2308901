"""The mapping behaves as one dict, and none of its own dicts grows large."""

from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.chainfire.mvcc.sharded_map import SHARD_MASK, ShardedMap

KEYS = st.binary(max_size=2)
STEPS = st.lists(st.tuples(st.sampled_from(["set", "pop", "get", "in"]), KEYS, st.binary(max_size=3)), max_size=60)


@given(STEPS)
def test_it_is_one_mapping(steps: list[tuple[str, bytes, bytes]]) -> None:
    model: dict[bytes, bytes] = {}
    sharded: ShardedMap[bytes] = ShardedMap()
    for what, key, value in steps:
        if what == "set":
            model[key] = sharded[key] = value
        elif what == "pop":
            assert sharded.pop(key) == model.pop(key, None)
        elif what == "get":
            assert sharded.get(key) == model.get(key)
            if key in model:
                assert sharded[key] == model[key]
        else:
            assert (key in sharded) is (key in model)
        assert len(sharded) == len(model)
    assert {key: sharded[key] for key in sharded} == model
    assert sorted(sharded.values()) == sorted(model.values())


def test_keys_spread_over_the_shards() -> None:
    sharded: ShardedMap[bytes] = ShardedMap()
    for number in range(256 * 400):
        sharded[b"/registry/pods/default/%08d" % number] = b""
    assert len(sharded.shards) == SHARD_MASK + 1
    assert max(map(len, sharded.shards)) < 800
