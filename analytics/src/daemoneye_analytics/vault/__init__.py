"""Evidence: packets that sensors keep because of findings.

======== ==================================================================
module   is about
======== ==================================================================
arming   which findings have packets kept, and that their nodes are told
bucket   what lies on the broker: entries, and files in chunks
reviews  asking the API server who somebody is and what he may read
door     HTTP for who may read, with a line in the log for each who asks
======== ==================================================================
"""
