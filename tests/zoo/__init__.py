"""Convolutional networks of many kinds, for holding the folder to the promise that it changes no function."""
