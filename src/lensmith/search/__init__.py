"""The search for settings: the trials (`trials`), the board that workers share (`board`), its database (`database`),
the worker (`worker`) and the conclusions (`outcome`). The verb is `lensmith sweep`.
"""
