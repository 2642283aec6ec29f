"""Which model is loaded, who gets it, and who has to make room."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence

import pytest

from models.errors import FailureKind, ModelError
from models.spec import ModelInfo
from tests.support.eventually import PATIENCE_SECONDS
from workers.contracts import ShardTask
from workers.execute import Outcome, Progress
from workers.pool import FIRST_PAUSE, LOAD_TRIES, ActorLostError, ActorPool, NoLongerWantedError


class FakeActor:
    def __init__(self, world: World) -> None:
        self.world = world
        self.model = ""
        self.ended = False

    def load(self, model: str, engine: str) -> ModelInfo:
        self.world.loads.append(model)
        self.world.while_loading()
        if model in self.world.broken:
            raise ModelError(FailureKind.MODEL, "model_missing", f"{model} is not there")
        if self.world.failures > 0:
            self.world.failures -= 1
            raise ModelError(FailureKind.ENGINE, "out_of_memory", "there is no room")
        self.model = model
        return ModelInfo(
            model=model, revision="-", engine=engine, context_length=1, reproducible="exact", shards_in_flight=2
        )

    def run(self, task: ShardTask, execution: str) -> Outcome:
        raise AssertionError("the pool runs nothing by itself")

    def exchange(self, granted: Sequence[str], stops: Mapping[str, str]) -> Mapping[str, Progress]:
        if self.ended:
            raise ActorLostError("dead")
        return {f"{self.model}-execution": Progress()}

    def end(self) -> None:
        self.ended = True
        self.world.ended.append(self.model)


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.loads: list[str] = []
        self.ended: list[str] = []
        self.broken: set[str] = set()
        self.failures = 0
        self.while_loading: Callable[[], None] = lambda: None

    def start(self, *, needs_place: bool) -> FakeActor:
        return FakeActor(self)

    def pool(self, places: int = 1, spare: FakeActor | None = None) -> ActorPool:
        return ActorPool(
            self,
            places=places,
            needs_place=lambda name, _engine: name != "echo",
            clock=lambda: self.now,
            patience=30.0,
            spare=spare,
        )


@pytest.fixture
def world() -> World:
    return World()


def test_a_model_is_loaded_once_and_stays(world: World) -> None:
    pool = world.pool()
    for _ in range(3):
        with pool.lend("a", "vllm"):
            pass
    assert world.loads == ["a"]
    assert [info.model for info in pool.loaded()] == ["a"]


def test_the_idle_model_that_was_used_least_recently_makes_room(world: World) -> None:
    pool = world.pool(places=2)
    for world.now, model in enumerate(["a", "b", "a", "c"]):
        with pool.lend(model, "vllm"):
            pass
    assert world.loads == ["a", "b", "c"]
    assert world.ended == ["b"]


def test_a_model_that_needs_no_place_makes_nobody_leave(world: World) -> None:
    pool = world.pool(places=1)
    with pool.lend("a", "vllm"), pool.lend("echo", "echo"):
        assert world.ended == []


def test_a_second_actor_is_added_where_the_first_is_full_and_there_is_a_place(world: World) -> None:
    pool = world.pool(places=2)
    with pool.lend("a", "vllm") as first, pool.lend("a", "vllm") as second, pool.lend("a", "vllm") as third:
        assert first is second
        assert third is not first
    assert world.loads == ["a", "a"]


def test_the_spare_actor_takes_the_first_model_that_needs_a_place(world: World) -> None:
    spare = FakeActor(world)
    pool = world.pool(spare=spare)
    with pool.lend("echo", "echo") as actor:
        assert actor is not spare
    with pool.lend("a", "vllm") as actor:
        assert actor is spare


def test_an_actor_that_died_is_replaced(world: World) -> None:
    pool = world.pool()
    with pytest.raises(ActorLostError), pool.lend("a", "vllm"):
        raise ActorLostError("killed")
    with pool.lend("a", "vllm"):
        pass
    assert world.loads == ["a", "a"]
    assert world.ended == ["a"]


def test_a_model_that_cannot_be_loaded_leaves_its_place_free(world: World) -> None:
    pool = world.pool()
    world.broken = {"a"}
    with pytest.raises(ModelError, match="a is not there"), pool.lend("a", "vllm"):
        pass
    with pool.lend("b", "vllm"):
        pass
    assert [info.model for info in pool.loaded()] == ["b"]


def test_those_who_waited_for_a_load_that_failed_are_told_without_another_try(world: World) -> None:
    pool = world.pool()
    world.broken = {"a"}
    errors: list[ModelError] = []
    loading, waiting = threading.Event(), threading.Event()

    def lend(wanted: Callable[[], bool]) -> None:
        try:
            with pool.lend("a", "vllm", wanted=wanted):
                pass
        except ModelError as error:
            errors.append(error)

    def slow_load() -> None:
        loading.set()
        assert waiting.wait(PATIENCE_SECONDS)

    def seen() -> bool:
        waiting.set()  # called while the second thread holds the pool: from here on it waits for the load
        return True

    world.while_loading = slow_load
    first = threading.Thread(target=lend, args=(lambda: True,))
    first.start()
    assert loading.wait(PATIENCE_SECONDS)
    second = threading.Thread(target=lend, args=(seen,))
    second.start()
    first.join(PATIENCE_SECONDS)
    second.join(PATIENCE_SECONDS)
    assert len(errors) == 2
    assert world.loads == ["a"]


class Rushing(World):
    """Whose clock runs so fast that every pause is over when it is looked at."""

    def pool(self, places: int = 1, spare: FakeActor | None = None) -> ActorPool:
        clock = itertools.count(0.0, 100.0)
        return ActorPool(
            self, places=places, needs_place=lambda _name, _engine: True, clock=lambda: next(clock), patience=1e9
        )


def test_an_engine_that_fails_to_load_is_tried_again() -> None:
    world = Rushing()
    world.failures = LOAD_TRIES - 1
    with world.pool().lend("a", "vllm"):
        pass
    assert world.loads == ["a"] * LOAD_TRIES


def test_an_engine_that_never_loads_is_given_up_and_tried_anew_for_the_next() -> None:
    world = Rushing()
    world.failures = LOAD_TRIES
    pool = world.pool()
    with pytest.raises(ModelError, match="5 times in a row: there is no room") as refused, pool.lend("a", "vllm"):
        pass
    assert (refused.value.kind, refused.value.code) == (FailureKind.PLATFORM, "model_not_loaded")
    with pool.lend("a", "vllm"):
        pass


def test_between_two_tries_the_model_rests(world: World) -> None:
    pool = world.pool()
    world.failures = 1
    asked = threading.Event()

    def wanted() -> bool:
        if world.loads:
            asked.set()
        return True

    thread = threading.Thread(target=lambda: pool.lend("a", "vllm", wanted=wanted).__enter__())
    thread.start()
    assert asked.wait(PATIENCE_SECONDS)
    assert world.loads == ["a"]
    world.now = FIRST_PAUSE
    thread.join(PATIENCE_SECONDS)
    assert world.loads == ["a", "a"]


def test_whoever_must_be_alone_waits_for_the_others_and_lets_nobody_in(world: World) -> None:
    pool = world.pool()
    order: list[str] = []
    waits = threading.Event()

    def lend(name: str, *, alone: bool) -> None:
        with pool.lend("a", "vllm", alone=alone, wanted=lambda: waits.set() is None):
            order.append(f"{name} in")
            if alone:
                after.start()
                assert not inside.wait(0.2)
            else:
                inside.set()
            order.append(f"{name} out")

    inside = threading.Event()
    after = threading.Thread(target=lend, args=("after",), kwargs={"alone": False})
    alone = threading.Thread(target=lend, args=("alone",), kwargs={"alone": True})
    with pool.lend("a", "vllm"):
        alone.start()
        assert waits.wait(PATIENCE_SECONDS)
        order.append("first out")
    alone.join(PATIENCE_SECONDS)
    after.join(PATIENCE_SECONDS)
    assert order == ["first out", "alone in", "alone out", "after in", "after out"]


def test_a_retired_actor_is_lent_no_more_and_ends_with_its_last_user(world: World) -> None:
    pool = world.pool(places=2)
    with pool.lend("a", "vllm") as broken:
        with pool.lend("a", "vllm") as same:
            assert same is broken
            pool.retire(broken)
        assert world.ended == []
        with pool.lend("a", "vllm") as fresh:
            assert fresh is not broken
    assert world.ended == ["a"]


def test_whoever_no_longer_wants_a_model_does_not_wait_for_it(world: World) -> None:
    pool = world.pool()
    with pool.lend("a", "vllm"), pytest.raises(NoLongerWantedError), pool.lend("b", "vllm", wanted=lambda: False):
        pass


def test_a_model_in_steady_use_makes_room_after_a_while(world: World) -> None:
    pool = world.pool()
    got: list[str] = []
    asked = threading.Event()

    def wanted() -> bool:
        if world.now > 0:
            return True
        asked.set()
        return True

    def want_b() -> None:
        with pool.lend("b", "vllm", wanted=wanted):
            got.append("b")

    with pool.lend("a", "vllm"):
        other = threading.Thread(target=want_b)
        other.start()
        assert asked.wait(PATIENCE_SECONDS)
        with pool.lend("a", "vllm"):
            assert got == []  # within patience, the loaded model goes on
        world.now = 31.0
        third = threading.Thread(target=lambda: pool.lend("a", "vllm").__enter__())
        third.start()
    other.join(PATIENCE_SECONDS)
    assert got == ["b"]
    third.join(PATIENCE_SECONDS)
    assert world.loads == ["a", "b", "a"]


def test_one_beat_asks_every_loaded_actor(world: World) -> None:
    pool = world.pool()
    with pool.lend("a", "vllm"), pool.lend("echo", "echo"):
        assert set(pool.exchange((), {})) == {"a-execution", "echo-execution"}


def test_closing_ends_every_actor_and_turns_callers_away(world: World) -> None:
    pool = world.pool(spare=FakeActor(world))
    with pool.lend("echo", "echo"):
        pass
    pool.close()
    assert len(world.ended) == 2
    with pytest.raises(ActorLostError, match="stopping"), pool.lend("a", "vllm"):
        pass
