"""`tmem bench store`: what the store promises, measured against its goals.

`rig` is the sizes and real pages that measurements use, `holder` and `writer` are programs that they start. One module per measurement: `index`,
`residency`, `growth`, `cleaning`, `refusal`, `weights`, `crashes`, `recovery`, `rivals`. `command` says which there are and in what order.
"""
