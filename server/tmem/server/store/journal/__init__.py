"""The journal: what pools of durability `disk` hold, as a log of what was done to them.

`entries` is the form of files and entries, `layer` puts the store's operations into them and answers when they are written, `rewriter`
writes the journal anew when it is too long, `recovery` does everything again at the next start. Which files there are, and the thread that writes them, is `tmem.server.host.journal`.
"""
