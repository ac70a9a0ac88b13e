"""`tmem bench peers`: tmem beside memcached, Redis and Valkey doing the same job, and beside the limits of the machine, in one run.

`data` is the real and generated pages, `units` what an agent does with each page on the peers' side, `stores` one interface over every client,
`worker` the program that drives one of them, `floors` the bare echoes and streams, `arrays` a program whose memory is read. One module per measurement:
`density`, `extents`, `batches`, `lone`, `clients` (with the program `idlers`), `shards` (with `cgroups`); `together` lets several workers work at once. `command`
runs them; `page` writes what they found as HTML, with what `plots` draws and `fairness` says; `machine` says what it was measured on.
"""
