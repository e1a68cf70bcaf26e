/*
 * A disk, a snapshot of it and a writable copy, from C. Built and run with
 *
 *     cargo rustc --release --lib --features capi --crate-type cdylib,staticlib
 *     cc -std=c99 -Wall -I src/capi examples/disks.c -L target/release -lsnapdisk -o disks
 *     LD_LIBRARY_PATH=target/release ./disks disks.img
 */
#include "snapdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the program with the library's message where a call fails. */
#define MUST(call)                                                                          \
    do {                                                                                    \
        int32_t code = (call);                                                              \
        if (code != SNAPDISK_OK) {                                                          \
            fprintf(stderr, "%s: error %d: %s\n", #call, (int)code, snapdisk_last_error()); \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)

static void expect(int yes, const char *what) {
    if (!yes) {
        fprintf(stderr, "not so: %s\n", what);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s IMAGE\n", argv[0]);
        return 2;
    }
    expect(snapdisk_abi() == SNAPDISK_ABI, "header and library agree");

    snapdisk_options options;
    MUST(snapdisk_options_init(&options, sizeof options));
    options.log_bytes = 4 << 20;
    uint64_t store, disk, before, copy;
    MUST(snapdisk_create(argv[1], &options, &store));
    MUST(snapdisk_volume_create(store, "root", 1 << 30, &disk));

    /* Two buffers as one write, at any offset; whole blocks of 4096 bytes are the fast path. */
    char hello[] = "hello, ", world[] = "world";
    struct iovec parts[] = {{hello, strlen(hello)}, {world, strlen(world)}};
    MUST(snapdisk_writev(disk, parts, 2, 4096, SNAPDISK_FUA));
    MUST(snapdisk_snapshot_create(disk, "before", 0, &before));

    MUST(snapdisk_discard(disk, 0, 1 << 20));
    char buf[12];
    MUST(snapdisk_read(disk, buf, sizeof buf, 4096));
    expect(buf[0] == 0, "a discarded range reads as zeros");

    MUST(snapdisk_clone(before, "copy", 0, &copy));
    MUST(snapdisk_read(copy, buf, sizeof buf, 4096));
    expect(memcmp(buf, "hello, world", 12) == 0, "the copy has what the snapshot has");
    expect(snapdisk_write(before, buf, 1, 0, 0) == SNAPDISK_E_READ_ONLY, "a snapshot is not written to");
    MUST(snapdisk_rollback(disk, before, 0));
    MUST(snapdisk_read(disk, buf, sizeof buf, 4096));
    expect(memcmp(buf, "hello, world", 12) == 0, "the rollback has brought it back");

    snapdisk_extent extents[4];
    size_t count;
    MUST(snapdisk_extents(disk, 0, 1 << 20, extents, 4, &count));
    for (size_t i = 0; i < count; i++) {
        printf("%8llu %8llu %s\n", (unsigned long long)extents[i].offset, (unsigned long long)extents[i].len,
               extents[i].data ? "data" : "hole");
    }

    /* By pages of two. */
    snapdisk_info page[2];
    uint64_t after = 0;
    do {
        MUST(snapdisk_volumes(store, after, page, 2, &count));
        for (size_t i = 0; i < count; i++) {
            printf("volume %llu, %s: %llu bytes\n", (unsigned long long)page[i].id, page[i].name,
                   (unsigned long long)page[i].bytes);
            after = page[i].id;
        }
    } while (count == 2);

    snapdisk_store_counters counters;
    MUST(snapdisk_counters(store, &counters, sizeof counters));
    expect(counters.syncs > 0, "the counters count");

    uint64_t findings;
    MUST(snapdisk_check(store, &findings));
    expect(findings == 0, "the image is sound");

    MUST(snapdisk_disk_close(copy));
    MUST(snapdisk_disk_close(before));
    MUST(snapdisk_close(store));
    expect(snapdisk_read(disk, buf, 1, 0) == SNAPDISK_E_CLOSED, "a disk of a closed store says so");
    MUST(snapdisk_disk_close(disk));
    expect(snapdisk_disk_close(disk) == SNAPDISK_E_HANDLE, "a closed handle is found out");
    puts("done");
    return 0;
}
