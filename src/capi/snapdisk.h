/*
 * snapdisk: many virtual disks in one image file, with copy-on-write snapshots.
 *
 * Made by cbindgen from src/capi: not to be edited.
 *
 * Codes. A function that can fail returns SNAPDISK_OK (0) or a SNAPDISK_E_ code, and then leaves a message for its thread, which
 * snapdisk_last_error returns. After an error nothing is in the places of results, unless a description says otherwise.
 *
 * Handles. Stores and disks are named by numbers, never 0, which are not used again. A handle that is closed, never was one or is one of
 * another kind answers SNAPDISK_E_HANDLE; one that a forked child has inherited answers SNAPDISK_E_WRONG_PROCESS, and the child may open
 * images of its own. Every handle is to be closed: until then it takes memory, and keeps the image open unless the store was closed.
 *
 * Threads. Every function may be called by any thread at any time, with the same handles too. A handle may be closed while other threads
 * use it: their calls go on to their end. Calls block; none may be made from a signal handler.
 *
 * Pointers. A pointer that is not null points to as much memory as its description says, which stays there until the call returns. While
 * the call runs nobody writes to what it reads, or reads or writes what it writes to. Strings end with a NUL; names are UTF-8, paths are any
 * bytes. The library keeps no pointer beyond the call. Null, unaligned addresses and impossible lengths answer SNAPDISK_E_INVALID; an
 * address that points elsewhere can't be found out.
 *
 * Offsets, lengths and sizes are in bytes, at any alignment; whole blocks of 4096 bytes are the fast path.
 */

#ifndef SNAPDISK_H
#define SNAPDISK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

// The version of this interface: what is declared under it is only ever added to. `snapdisk_abi()` returns the library's.
#define SNAPDISK_ABI 1

// Success.
#define SNAPDISK_OK 0

// An argument breaks its documented rules. Nothing was done.
#define SNAPDISK_E_INVALID 1

// The range reaches past the end of the disk. Nothing was done.
#define SNAPDISK_E_OUT_OF_RANGE 2

// No volume, snapshot or image of that name. Nothing was done.
#define SNAPDISK_E_NOT_FOUND 3

// The name is taken. Nothing was done.
#define SNAPDISK_E_EXISTS 4

// The volume or snapshot behind this handle was deleted. Nothing was done.
#define SNAPDISK_E_DELETED 5

// The store was closed. Nothing was done.
#define SNAPDISK_E_CLOSED 6

// The image is open elsewhere, in this process or another. Nothing was done.
#define SNAPDISK_E_LOCKED 7

// The volume is attached by another handle. Nothing was done.
#define SNAPDISK_E_BUSY 8

// The content of the attached volume was changed by force, and the handle's holder has not acknowledged it. Nothing was done.
#define SNAPDISK_E_STALE 9

// The store was opened for reading, or the disk is a snapshot. Nothing was done.
#define SNAPDISK_E_READ_ONLY 10

// The image is at its limit or the host is full. Nothing was done; work resumes once there is space.
#define SNAPDISK_E_NO_SPACE 11

// An earlier write or sync failed; nothing more is written until the image is opened again. Nothing was done.
#define SNAPDISK_E_POISONED 12

// Bytes of the image do not verify. Nothing wrong was returned.
#define SNAPDISK_E_CORRUPT 13

// The file is shorter than what it must hold.
#define SNAPDISK_E_TRUNCATED 14

// The image uses a format that this version does not know.
#define SNAPDISK_E_UNSUPPORTED_VERSION 15

// The handle was made before a `fork` and is used in the child. Nothing was done.
#define SNAPDISK_E_WRONG_PROCESS 16

// The work was asked to stop.
#define SNAPDISK_E_CANCELLED 17

// The host failed to read or write. Of a change the outcome is unknown, and the store is poisoned; a read may be repeated.
#define SNAPDISK_E_IO 18

// A kind of failure that this version of the interface has no code for.
#define SNAPDISK_E_OTHER 19

// No open handle has that number, or it is one of another kind. Nothing was done.
#define SNAPDISK_E_HANDLE 64

// The library failed within itself, which is a defect. If the call was to change something, its outcome is unknown.
#define SNAPDISK_E_PANIC 65

// The image is opened for reading, together with any number of other readers.
#define SNAPDISK_OPEN_READ_ONLY 1

// The whole image is checked before it is used, as is due to one from elsewhere.
#define SNAPDISK_OPEN_UNTRUSTED 2

// Space from the host is not written ahead of its use: see `Options::write_fresh_space` of the Rust library.
#define SNAPDISK_OPEN_NO_FRESH_WRITES 4

// Data is read by `pread` alone, so that a truncated file or an evicted page on a bad medium is an error and never `SIGBUS`.
#define SNAPDISK_OPEN_PREAD 8

// The handle attaches the volume: while it is open, nobody else rolls the volume back, shrinks it, deletes it or attaches it.
#define SNAPDISK_ATTACH 1

// The new snapshot or clone is durable with the next flush, rather than when the call returns.
#define SNAPDISK_DEFERRED 1

// A rollback restores the content and leaves the size as it is.
#define SNAPDISK_KEEP_SIZE 1

// The write is durable when it returns.
#define SNAPDISK_FUA 1

// A volume that has snapshots is not deleted.
#define SNAPDISK_SNAPSHOTS_REFUSE 0

// Snapshots of a deleted volume stay, listed and clonable.
#define SNAPDISK_SNAPSHOTS_KEEP 1

// Snapshots of a deleted volume go too.
#define SNAPDISK_SNAPSHOTS_DELETE 2

// The disk is a volume: writable.
#define SNAPDISK_VOLUME 1

// The disk is a snapshot: it never changes.
#define SNAPDISK_SNAPSHOT 2

// Bytes of a name with its terminating NUL, at most.
#define SNAPDISK_NAME_SIZE 72

// How an image is created or opened. Filled with the defaults by `snapdisk_options_init`; then single fields are changed.
typedef struct snapdisk_options {
  // Bytes of this structure as the caller was compiled: `sizeof(snapdisk_options)`. Later versions add fields at the end.
  uint32_t size;
  // `SNAPDISK_OPEN_…`, or-ed.
  uint32_t flags;
  // Bytes of the intent log, 1 to 64 MiB; counts at creation only. Default 16 MiB.
  uint64_t log_bytes;
  // Bytes of memory for everything that the store keeps, at least 1 MiB. Default 256 MiB.
  uint64_t memory_bytes;
  // The image file never grows beyond this many bytes. Default 64 TiB, which is the most.
  uint64_t max_image_bytes;
  // Free runs of at least this many bytes are returned to the host; `UINT64_MAX`: none are. Default 1 MiB.
  uint64_t punch_from_bytes;
  // Free space that the image may have before small holes are filled, in percent of the space in use. Default 100.
  uint32_t slack_percent;
  // Zero.
  uint32_t reserved;
} snapdisk_options;

// Figures of a store. What only goes up starts at 0 when the image is opened. Later versions add fields at the end.
typedef struct snapdisk_store_counters {
  // Bytes of the image file that are laid out.
  uint64_t image_bytes;
  // Bytes that are free to allocate now.
  uint64_t free_bytes;
  // Bytes that were freed and wait for a checkpoint, or for reads to end.
  uint64_t waiting_bytes;
  // Bytes that were returned to the host.
  uint64_t returned_bytes;
  // Deleted subtrees that wait for reclaim.
  uint64_t reclaim_entries;
  // Blocks of 4096 bytes of the intent log.
  uint64_t log_blocks;
  // Blocks of the intent log that are in use.
  uint64_t log_used_blocks;
  // The number of the last checkpoint.
  uint64_t generation;
  // Syncs that the host was asked for.
  uint64_t syncs;
  // Bytes that were read from the host.
  uint64_t host_read_bytes;
  // Bytes that were written to the host.
  uint64_t host_written_bytes;
} snapdisk_store_counters;

// A volume or a snapshot.
typedef struct snapdisk_info {
  // The number that names it for ever, among volumes or among snapshots. At least 1.
  uint64_t id;
  // Of a snapshot: the id of the volume that it was taken of, which may be gone. Of a volume: its own.
  uint64_t volume;
  // Its size in bytes.
  uint64_t bytes;
  // When it was made, by the host's clock: nanoseconds since 1970, UTC.
  uint64_t created_ns;
  // `SNAPDISK_VOLUME` or `SNAPDISK_SNAPSHOT`.
  uint32_t kind;
  // Zero.
  uint32_t reserved;
  // Its name, ended by a NUL.
  char name[SNAPDISK_NAME_SIZE];
} snapdisk_info;

// Requests that succeeded since the image was opened, of all handles of one volume. Later versions add fields at the end.
typedef struct snapdisk_volume_counters {
  // Reads.
  uint64_t reads;
  // Bytes that were read.
  uint64_t read_bytes;
  // Writes.
  uint64_t writes;
  // Bytes that were written.
  uint64_t written_bytes;
  // Discards and requests for zeros.
  uint64_t discards;
  // Bytes that were discarded or zeroed.
  uint64_t discarded_bytes;
} snapdisk_volume_counters;

// A part of a disk: data, or a hole that reads as zeros.
typedef struct snapdisk_extent {
  // The byte at which it begins.
  uint64_t offset;
  // Its length in bytes.
  uint64_t len;
  // 1: data; 0: a hole.
  uint32_t data;
  // Zero.
  uint32_t reserved;
} snapdisk_extent;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Returns the version of the interface that the library has: `SNAPDISK_ABI` of its header.
uint32_t snapdisk_abi(void);

// Returns the version of the library, such as "0.1.0".
const char *snapdisk_version(void);

// Returns the message of the last call of this thread that failed; an empty string if none has. Never null. It is good until the next call
// of the same thread fails.
const char *snapdisk_last_error(void);

// Returns the `errno` that a block device would answer with instead of the code: 0 for `SNAPDISK_OK`, `EBADF` for `SNAPDISK_E_HANDLE`,
// `EIO` for unknown codes.
int32_t snapdisk_errno(int32_t code);

// Fills `options`, a structure of `size` bytes (`sizeof *options`), with the defaults.
int32_t snapdisk_options_init(struct snapdisk_options *options, size_t size);

// Creates an image file at `path`, and opens it. `options` may be null: the defaults. `SNAPDISK_E_EXISTS` if the name is taken.
int32_t snapdisk_create(const char *path,
                        const struct snapdisk_options *options,
                        uint64_t *store);

// Opens the image file at `path`; recovers it if it was not closed. `options` may be null: the defaults. `SNAPDISK_E_LOCKED` if it is open
// elsewhere.
int32_t snapdisk_open(const char *path,
                      const struct snapdisk_options *options,
                      uint64_t *store);

// Flushes, writes a last checkpoint and closes the image. Handles of its disks answer `SNAPDISK_E_CLOSED` from then on, and are still to be
// closed. The handle of the store is gone whatever the call answers. A program that ends without this call crashes as far as the image can
// tell: what was flushed is safe.
int32_t snapdisk_close(uint64_t store);

// Makes durable every operation that returned before this call, of all disks of the store.
int32_t snapdisk_flush(uint64_t store);

// Checks everything: checksums, counts, order. It writes nothing, reads all data, and puts the number of problems into `findings`.
int32_t snapdisk_check(uint64_t store,
                       uint64_t *findings);

// Puts the figures of the store into `counters`, a structure of `size` bytes (`sizeof *counters`). It costs no more than a lookup.
int32_t snapdisk_counters(uint64_t store,
                          struct snapdisk_store_counters *counters,
                          size_t size);

// Lists up to `capacity` volumes by id, from the first one (`after` = 0) or from the one after the id `after`, and puts their number into
// `count`. A page shorter than `capacity` is the last. A volume that is created or deleted meanwhile is listed or not.
int32_t snapdisk_volumes(uint64_t store,
                         uint64_t after,
                         struct snapdisk_info *list,
                         size_t capacity,
                         size_t *count);

// Lists up to `capacity` snapshots of all volumes by id, oldest first, as `snapdisk_volumes` does.
int32_t snapdisk_snapshots(uint64_t store, uint64_t after, struct snapdisk_info *list, size_t capacity, size_t *count);

// Creates a volume of `bytes` (a multiple of 512, up to 256 TiB) that reads as zeros, and opens it. `SNAPDISK_E_EXISTS` if the name is
// taken. A name has 1 to 64 letters, digits, dots, dashes and underscores, and begins with neither a dot nor a dash.
int32_t snapdisk_volume_create(uint64_t store,
                               const char *name,
                               uint64_t bytes,
                               uint64_t *disk);

// Opens the volume of that name. `flags`: 0, or `SNAPDISK_ATTACH` for the one user that it has as a device.
int32_t snapdisk_volume_open(uint64_t store, const char *name, uint32_t flags, uint64_t *disk);

// Opens the snapshot with that id.
int32_t snapdisk_snapshot_open(uint64_t store, uint64_t id, uint64_t *snapshot);

// Closes the handle of a disk. Calls of other threads that use it go on to their end. A volume that the handle attached is then released.
int32_t snapdisk_disk_close(uint64_t disk);

// Describes the disk.
int32_t snapdisk_disk_info(uint64_t disk, struct snapdisk_info *info);

// Puts the size of the disk in bytes into `bytes`.
int32_t snapdisk_disk_size(uint64_t disk, uint64_t *bytes);

// Puts the figures of the volume into `counters`, a structure of `size` bytes (`sizeof *counters`).
int32_t snapdisk_disk_counters(uint64_t disk, struct snapdisk_volume_counters *counters, size_t size);

// Renames the volume or snapshot.
int32_t snapdisk_disk_rename(uint64_t disk, const char *name);

// Deletes the volume or snapshot. `snapshots` (`SNAPDISK_SNAPSHOTS_…`) says what becomes of a volume's snapshots, and is 0 for a snapshot.
// The handle answers `SNAPDISK_E_DELETED` from then on, and is still to be closed. The space is freed in the background.
int32_t snapdisk_disk_delete(uint64_t disk,
                             uint32_t snapshots);

// Grows or shrinks the volume to `bytes`, a multiple of 512. What is cut off is gone; what is added reads as zeros.
int32_t snapdisk_resize(uint64_t disk, uint64_t bytes);

// Makes the volume what `snapshot`, one of its own, is: content and size, or with `SNAPDISK_KEEP_SIZE` the content alone. It costs one small
// record and one sync, whatever the size.
int32_t snapdisk_rollback(uint64_t disk,
                          uint64_t snapshot,
                          uint32_t flags);

// Takes a snapshot of the volume. It costs one small record and one sync, whatever the size; with `SNAPDISK_DEFERRED` it is durable with the
// next flush. `snapshot` takes a handle of it, or is null.
int32_t snapdisk_snapshot_create(uint64_t disk,
                                 const char *name,
                                 uint32_t flags,
                                 uint64_t *snapshot);

// Opens the snapshot of the volume that has that name.
int32_t snapdisk_snapshot_named(uint64_t disk, const char *name, uint64_t *snapshot);

// Lists up to `capacity` snapshots of the volume, oldest first, from the first one (`after` = 0) or from the one after the id `after`, and
// puts their number into `count`. Each call looks all of the volume's snapshots up.
int32_t snapdisk_disk_snapshots(uint64_t disk,
                                uint64_t after,
                                struct snapdisk_info *list,
                                size_t capacity,
                                size_t *count);

// Creates a volume with the content of the snapshot, and opens it. It costs one small record and one sync, whatever the size; with
// `SNAPDISK_DEFERRED` it is durable with the next flush.
int32_t snapdisk_clone(uint64_t snapshot,
                       const char *name,
                       uint32_t flags,
                       uint64_t *disk);

// Puts into `generation` how often the volume, which the handle attached, was rolled back, resized or deleted since then, by anyone.
int32_t snapdisk_generation(uint64_t disk,
                            uint64_t *generation);

// Says that the holder of the attached volume knows of every change up to `generation`, so that a handle that answered `SNAPDISK_E_STALE`
// serves again.
int32_t snapdisk_acknowledge(uint64_t disk,
                             uint64_t generation);

// Fills `buf`, `len` bytes, from byte `offset` of the disk on. A range past the end answers `SNAPDISK_E_OUT_OF_RANGE`. After an error the
// content of `buf` means nothing.
int32_t snapdisk_read(uint64_t disk,
                      void *buf,
                      size_t len,
                      uint64_t offset);

// `snapdisk_read` into up to 1024 buffers, one after the other, as one read. Two buffers that overlap are `SNAPDISK_E_INVALID`.
int32_t snapdisk_readv(uint64_t disk,
                       const struct iovec *buffers,
                       size_t count,
                       uint64_t offset);

// Writes `buf`, `len` bytes, from byte `offset` of the volume on. Up to 1 MiB appears whole or not at all after a crash; a longer write is
// cut at multiples of 1 MiB. It is durable after the next flush, or with `SNAPDISK_FUA` when it returns. A buffer that another thread
// changes meanwhile can leave blocks that no read verifies.
int32_t snapdisk_write(uint64_t disk,
                       const void *buf,
                       size_t len,
                       uint64_t offset,
                       uint32_t flags);

// `snapdisk_write` from up to 1024 buffers, one after the other, as one write.
int32_t snapdisk_writev(uint64_t disk, const struct iovec *buffers, size_t count, uint64_t offset, uint32_t flags);

// Makes durable every operation of the store that returned before this call. Without anything new it costs nothing.
int32_t snapdisk_disk_flush(uint64_t disk);

// Makes a range of the volume read as zeros, and gives its space back where whole blocks of 4096 bytes are covered. One unit, whatever its
// length.
int32_t snapdisk_discard(uint64_t disk,
                         uint64_t offset,
                         uint64_t len);

// Makes a range of the volume read as zeros. The same as `snapdisk_discard`: zeros need no space.
int32_t snapdisk_write_zeroes(uint64_t disk, uint64_t offset, uint64_t len);

// Lists up to `capacity` of the parts of `len` bytes from `offset` on that are data or holes, in order and without gaps, and puts their
// number into `count`. Fewer may come, but none only of an empty range: the next page begins where the last part ends.
int32_t snapdisk_extents(uint64_t disk,
                         uint64_t offset,
                         uint64_t len,
                         struct snapdisk_extent *list,
                         size_t capacity,
                         size_t *count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SNAPDISK_H */
