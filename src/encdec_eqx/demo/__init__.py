"""The demo: English spelling → pronunciation, from two pretrained pieces to a saved model, in under two minutes.

Written as a user would write it: on the library's public names alone.
"""
