from ansible.module_utils.bed_package import NAME


def twice(text):
    return "{}:{}{}".format(NAME, text, text)
