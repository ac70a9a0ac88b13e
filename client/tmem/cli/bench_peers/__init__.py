"""`tmem bench peers`: tmem beside memcached, Redis and Valkey doing the same job, and beside the limits of the machine, in one run.

`data` is the real and generated pages, `units` what an agent does with each page on the peers' side, `stores` one interface over every client,
`worker` the program that drives one of them, `floors` the bare echoes and streams, `arrays` a program whose memory is read. One module per measurement:
`density`, `extents`, `batches`, `lone`, `clients`, `idle`, `shards`. `command` runs them; `page` writes what they found as HTML, `plots` draws it.
"""
