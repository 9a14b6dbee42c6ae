import gc
import threading
import time

from stepcoder.sandbox import syntax


def test_threads_parse_while_the_collectors_callbacks_let_others_in():
    def let_others_in(_phase: str, _info: dict[str, int]) -> None:
        time.sleep(0)

    source = "\n".join(f"y{i} = [a + {i} for a in (x, (y, ({i}, [1, 2])))]" for i in range(300))
    failures: list[BaseException] = []

    def parse_often() -> None:
        try:
            for _ in range(8):
                assert len(syntax.parse(source).body) == 300
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
