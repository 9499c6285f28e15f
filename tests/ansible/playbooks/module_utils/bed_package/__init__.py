NAME = "bed_package"
