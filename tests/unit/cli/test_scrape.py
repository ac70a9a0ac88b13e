from tmem.cli.scrape import moved, total

BEFORE = {'tmem_x_total{op="put",pool="a"}': 1.0, 'tmem_y_bucket{le="1"}': 1.0, "other_total": 1.0, "tmem_same": 2.0}
AFTER = {
    'tmem_x_total{op="put",pool="a"}': 4.0,
    'tmem_x_total{op="get",pool="a"}': 5.0,
    'tmem_y_bucket{le="1"}': 9.0,
    "other_total": 9.0,
    "tmem_same": 2.0,
}


def test_what_moved_is_ours_and_no_bucket() -> None:
    assert moved(BEFORE, AFTER) == {
        'tmem_x_total{op="put",pool="a"}': (1.0, 4.0),
        'tmem_x_total{op="get",pool="a"}': (0.0, 5.0),
    }


def test_totals_are_summed_over_the_labels_not_asked_for() -> None:
    assert total(AFTER, "tmem_x_total") == 9.0
    assert total(AFTER, "tmem_x_total", op="get") == 5.0
    assert total(AFTER, "tmem_x") == 0.0
