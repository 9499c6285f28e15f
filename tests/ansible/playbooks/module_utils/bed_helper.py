"""A module_utils of our own, which imports another one, a package's."""

from ansible.module_utils.bed_package import inner


def doubled(text):
    return inner.twice(text)
