"""Files that lie, by the thousand: what happens to whoever opens them?"""
