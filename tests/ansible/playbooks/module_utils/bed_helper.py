"""A module_utils file of the playbook, which imports another one from a package."""

from ansible.module_utils.bed_package import inner


def doubled(text):
    return inner.twice(text)
