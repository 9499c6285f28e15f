import os
import sys

print("python", sys.argv[1:], os.path.basename(__file__))
