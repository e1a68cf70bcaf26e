"""The vendor's own SDK, unmodified, against a running server: creates, lists, rolls back and deletes snapshots."""

import json
import logging
import sys
import tomllib
import urllib.request

from ucloud.client import Client
from ucloud.core import exc
from ucloud.services.ucloudstack.client import UCloudStackClient

URL, CONFIG, DISK = sys.argv[1:4]
with open(CONFIG, "rb") as f:
    MEMBERS = tomllib.load(f)
MAIN, SUB = MEMBERS["company"][0]["member"][:2]
ADMIN = MEMBERS["admin"][0]
passed = 0


def config(keys):
    return {
        "base_url": URL + "/api",
        "region": "cn",
        "public_key": keys["public_key"],
        "private_key": keys["private_key"],
        "max_retries": 0,
    }


def check(what, got, want=True):
    global passed
    if got != want:
        sys.exit(f"{what}: {got!r}, expected {want!r}")
    passed += 1


def refused(what, code, call, *args):
    try:
        call(*args)
    except exc.RetCodeException as e:
        check(what, e.code, code)
        check(what + ": says why", bool(e.message))
    else:
        sys.exit(f"{what}: was not refused")


logging.disable(logging.WARNING)
typed, free = UCloudStackClient(config(MAIN)), Client(config(MAIN))
place = {"Region": "cn", "Zone": "zone-01"}

# The four actions, by the SDK's own methods.
disk = typed.create_disk({**place, "Name": "数据 & data", "DiskSpace": 1, "SetType": "Normal", "ChargeType": "Month", "Quantity": 1})
check("its id", disk["DiskID"].startswith("disk-"))
disk = disk["DiskID"]
made = []
for name in ["快照-1", "a&b=c +%20", "third"]:
    answer = typed.create_snapshot({**place, "DiskID": disk, "Name": name, "Remark": name[::-1]})
    check("CreateSnapshot", answer["SnapshotID"].startswith("disksnapshot-"))
    made.append(answer["SnapshotID"])
listed = typed.describe_snapshot({**place, "DiskID": disk, "Limit": 2, "Offset": 1})
check("DescribeSnapshot", (listed["TotalCount"], [i["SnapshotID"] for i in listed["Infos"]]), (3, made[1:]))
one = typed.describe_snapshot({**place, "SnapshotIDs": [made[0]]})["Infos"][0]
check("its name", one["Name"], "快照-1")
check("its state", (one["SnapshotStatus"], one["DiskID"]), ("Normal", disk))
one = free.invoke("DescribeSnapshot", {"SnapshotIDs": [made[0]]})["Infos"][0]
check("all fields", (len(one), one["SnapshotSize"], one["Email"]), (16, 1, MAIN["email"]))
typed.rollback_snapshot({**place, "DiskID": disk, "SnapshotID": made[1]})
passed += 1
typed.delete_snapshot({**place, "SnapshotID": made[0]})
passed += 1
check("it is gone", typed.describe_snapshot({**place, "DiskID": disk})["TotalCount"], 2)

# Any field, and everything that is refused.
check("Keyword", free.invoke("DescribeSnapshot", {"Keyword": "A&B"})["TotalCount"], 1)
check("no filter", free.invoke("DescribeSnapshot", {"ProjectIDs": []})["TotalCount"], 2)
refused("another disk's name", 200, free.invoke, "RollbackSnapshot", {"DiskID": "disk-none", "SnapshotID": made[1]})
refused("deleted already", 200, free.invoke, "DeleteSnapshot", {"SnapshotID": made[0]})
refused("no name", 3, free.invoke, "CreateSnapshot", {"DiskID": disk})
refused("a long name", 4, free.invoke, "CreateSnapshot", {"DiskID": disk, "Name": "n" * 129})
refused("no such action", 110, free.invoke, "ExplodeSnapshot", {})
refused("no such region", 400, free.invoke, "DescribeSnapshot", {"Region": "mars"})
for i in range(8):
    free.invoke("CreateSnapshot", {"DiskID": disk, "Name": str(i)})
refused("too many", 7000, free.invoke, "CreateSnapshot", {"DiskID": disk, "Name": "11"})
refused("a wrong key", 109, Client({**config(MAIN), "private_key": "x" * 64}).invoke, "DescribeSnapshot", {})
refused("an unknown key", 109, Client({**config(MAIN), "public_key": "x" * 40}).invoke, "DescribeSnapshot", {})

# Others.
sub, admin = Client(config(SUB)), Client(config(ADMIN))
check("a sub-account sees its projects", sub.invoke("DescribeSnapshot", {})["TotalCount"], 0)
refused("and nothing else", 200, sub.invoke, "DeleteSnapshot", {"SnapshotID": made[1]})
check("an admin sees all", admin.invoke("DescribeSnapshot", {"CompanyID": 1})["TotalCount"], 10)
refused("no such company", 27001, admin.invoke, "DescribeSnapshot", {"CompanyID": 99})

# A disk with content, imported beforehand, bound and unbound.
first = free.invoke("CreateSnapshot", {"DiskID": DISK, "Name": "imported"})["SnapshotID"]
typed.attach_disk({**place, "DiskID": DISK, "ResourceID": "vm-1", "ResourceType": "VM"})
passed += 1
refused("its VM runs", 1014, free.invoke, "RollbackSnapshot", {"DiskID": DISK, "SnapshotID": first})
info = free.invoke("DescribeSnapshot", {"SnapshotIDs": [first]})["Infos"][0]
check("what it is bound to", (info["DiskAttachResourceID"], info["DiskAttachResourceType"]), ("vm-1", "VM"))
typed.detach_disk({**place, "DiskID": DISK, "ResourceID": "vm-1", "ResourceType": "VM"})
passed += 1
check("RollbackSnapshot", free.invoke("RollbackSnapshot", {"DiskID": DISK, "SnapshotID": first})["RetCode"], 0)
copy = free.invoke("CreateDiskFromSnapshot", {"SrcSnapshotID": first, "Name": "copy"})["DiskID"]
typed.upgrade_disk({**place, "DiskID": copy, "DiskSpace": 2})
passed += 1
clone = typed.clone_disk({**place, "SrcID": copy, "Name": "clone", "ChargeType": "Month"})["DiskID"]
check("DescribeDisk", typed.describe_disk({**place, "DiskIDs": [clone]})["Infos"][0]["Size"], 2)
for gone in [clone, disk]:
    check("DeleteDisk", free.invoke("DeleteDisk", {"DiskID": gone})["RetCode"], 0)
check("its snapshots went with it", free.invoke("DescribeSnapshot", {})["TotalCount"], 1)

check("health", urllib.request.urlopen(URL + "/health").read(), b"ok\n")
print(json.dumps({"snapshot": first, "copy": copy}))
print(f"{passed} passed, 0 failed", file=sys.stderr)
