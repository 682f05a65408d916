"""The queue: one worker a key, no key lost, pauses that grow."""

import asyncio

from datafetch_operator.workqueue import WorkQueue


async def _take(queue: WorkQueue[str]) -> str:
    return await asyncio.wait_for(queue.get(), 1)


def test_a_key_that_is_added_often_is_worked_on_once() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        for _ in range(3):
            queue.add("a")
        queue.add("b")
        assert [await _take(queue), await _take(queue)] == ["a", "b"]
        assert len(queue) == 0

    asyncio.run(run())


def test_a_key_that_is_added_while_it_is_worked_on_comes_again_afterwards_and_not_before() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        assert await _take(queue) == "a"
        queue.add("a")
        assert len(queue) == 0
        queue.done("a")
        assert await _take(queue) == "a"

    asyncio.run(run())


def test_a_waiting_worker_is_woken() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        workers = [asyncio.create_task(queue.get()) for _ in range(2)]
        await asyncio.sleep(0)
        queue.add("a")
        queue.add("b")
        assert sorted(await asyncio.wait_for(asyncio.gather(*workers), 1)) == ["a", "b"]

    asyncio.run(run())


def test_what_was_said_last_about_later_holds() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add_after("a", 60)
        queue.add_after("a", 0.01)
        assert await _take(queue) == "a"
        queue.done("a")
        queue.add_after("a", 0.01)
        queue.cancel("a")
        await asyncio.sleep(0.03)
        assert len(queue) == 0

    asyncio.run(run())


def test_pauses_double_up_to_a_cap_and_begin_anew_after_success() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue(jitter=lambda: 1.0)
        assert [queue.retry("a") for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]
        queue.forget("a")
        assert queue.retry("a") == 1
        assert WorkQueue[str](jitter=lambda: 0.0).retry("a") == 0.5
        queue.cancel("a")

    asyncio.run(run())


def test_how_long_the_longest_work_takes_is_known() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        assert queue.longest_work() == 0
        queue.add("a")
        await queue.get()
        await asyncio.sleep(0.02)
        assert queue.longest_work() >= 0.02
        queue.done("a")
        assert queue.longest_work() == 0

    asyncio.run(run())
