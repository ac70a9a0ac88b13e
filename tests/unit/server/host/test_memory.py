import gc

from tmem.server.host.memory import tame_collector


def test_long_lived_objects_leave_the_collections() -> None:
    before = gc.get_threshold()
    try:
        tame_collector()
        assert gc.get_freeze_count() > 1000
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
