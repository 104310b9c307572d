"""A search for settings: what is searched (`trials`), the board that workers share (`board`) in a database that may go
away (`database`), and what came of it (`outcome`). The verb is `sweeps`.
"""
