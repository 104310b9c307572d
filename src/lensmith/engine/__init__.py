"""The hot path. A forward pass is a tree (`branches`): the shared question once, each image once, then the answers.

Start with `branches`. `labels` searches the answers, `objective` and `step` train on them, `classifier` scores images.
"""
