import ast
import gc
import threading
import time

from stepcoder.sandbox import syntax

SOURCE = "\n".join(f"y{i} = [a + {i} for a in (x, (y, ({i}, [1, 2])))]" for i in range(300))


def test_threads_parse_while_the_collectors_callbacks_let_others_in():
    def let_others_in(_phase: str, _info: dict[str, int]) -> None:
        time.sleep(0)

    failures: list[BaseException] = []

    def parse_often() -> None:
        try:
            for _ in range(8):
                assert len(syntax.parse(SOURCE).body) == 300
        except BaseException as error:
            failures.append(error)

    thresholds = gc.get_threshold()
    gc.callbacks.append(let_others_in)
    gc.set_threshold(50)
    try:
        threads = [threading.Thread(target=parse_often) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_others_in)
    assert failures == []


def test_a_library_that_parses_amid_ours_costs_another_try():
    parsed: list[ast.Module] = []

    def parse_at_first(_phase: str, _info: dict[str, int]) -> None:
        if len(parsed) < 20:
            parsed.append(ast.parse("y = 1"))

    thresholds = gc.get_threshold()
    gc.callbacks.append(parse_at_first)
    gc.set_threshold(50)
    try:
        assert len(syntax.parse(SOURCE).body) == 300
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(parse_at_first)
    assert parsed
