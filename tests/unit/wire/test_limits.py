from tmem.wire import limits


def test_a_full_block_fits_into_a_message_whatever_its_content() -> None:
    columns = 512 * (24 + 10 + 3 + 4 + 2 + 4)
    assert limits.BLOCK_BYTES + columns + 256 <= limits.MAX_MESSAGE_BYTES


def test_an_answer_with_its_columns_fits_into_a_message() -> None:
    assert limits.MAX_ANSWER_BYTES + 512 * 60 <= limits.MAX_MESSAGE_BYTES
    assert limits.MAX_ANSWER_BYTES >= limits.MAX_BATCH_PAGES * limits.PAGE_BYTES


def test_clients_ping_more_seldom_than_servers_allow() -> None:
    client = dict(limits.client_channel_options())
    server = dict(limits.server_options(max_concurrent_streams=1))

    assert int(client["grpc.keepalive_time_ms"]) >= 2 * int(server["grpc.http2.min_ping_interval_without_data_ms"])


def test_a_server_never_shares_its_port() -> None:
    assert dict(limits.server_options(max_concurrent_streams=1))["grpc.so_reuseport"] == 0


def test_no_proxy_stands_between_a_machine_and_its_memory() -> None:
    assert dict(limits.client_channel_options())["grpc.enable_http_proxy"] == 0
