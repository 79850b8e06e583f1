def per_set(rows): return ""
def overall(rows): return ""
