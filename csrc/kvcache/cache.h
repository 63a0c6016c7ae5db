// RingCache: the keys and values of a decoder, quantized as they are written, in memory that is taken once.
//
// Each sequence has `sinks` slots for its first tokens and a ring of window + max(max_chunk - 1, rewind) slots for the
// rest. A token at position p lies in slot p below `sinks`, and in sinks + (p - sinks) % ring after that; positions are
// absolute and never wrap. What a query sees follows from the slots' positions alone:
//     0 <= position <= query  and  (position < sinks or query - position < window)
//
// A step is a transaction:  stage(tokens)  ->  for each layer: write(), attend()  ->  commit(accepted) or abort().
// Staged tokens lie in their final slots. The ring's spare slots keep them from evicting what a committed token still
// sees, so a rejected draft costs nothing but depth of rewind: that counts from the highest position that was staged.
//
// Bits: the sum over slots runs in slot order, in segments of a fixed size. How tokens were chunked, the number of
// threads, the ISA, and a fork or a saved copy in between change nothing.
//
// Calls on one cache must not overlap. Nothing but create(), save() and the first calls of a new thread allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "kernels/kernels.h"

namespace ek {

/// How one of K and V is stored. Integers have one float16 scale (and offset, if asymmetric) per token, head and group.
struct KvFormat {
  KvKind kind = KvKind::kInt8;
  size_t group = 0;         // along head_dim: 32, 64 or 128; 0: head_dim, at most 128. The last group may be short
  bool asymmetric = false;  // integers: value = offset + scale * q, q unsigned
  bool rotated = false;     // K only: stored, and met by the query, through a Hadamard rotation (head_dim a power of 2)
};

/// Formats of K and V by name: "float32", "float16", "bfloat16", "int8", "k8v4" (K int8, V int4 in groups of 64,
/// asymmetric), "int4" (K int4 rotated, V int4, both in groups of 32, asymmetric), "article" (K int4 in groups of 64,
/// V int8; query_bits 4). False: no such name.
bool kv_formats(std::string_view name, KvFormat* k, KvFormat* v, int* query_bits);

struct KvSpec {
  size_t layers = 0, kv_heads = 0, head_dim = 0;  // head_dim: a multiple of 8, at most 512
  size_t query_heads = 0;                         // a multiple of kv_heads
  size_t window = 4096;                           // tokens that a query sees, itself included, besides the sinks
  size_t sinks = 4;                               // first tokens of the sequence, which stay visible
  size_t max_chunk = 256;                         // most tokens in one transaction
  size_t rewind = 16;                             // committed tokens that can be taken back at any time
  size_t sequences = 1;
  KvFormat k, v;
  int query_bits = 8;  // of the query that meets integer K: 8 or 4

  size_t ring() const {
    const size_t spare = max_chunk - 1 > rewind ? max_chunk - 1 : rewind;
    return window + spare;
  }
  size_t slots() const { return sinks + ring(); }  // of one sequence: its capacity in tokens
};

/// What rewind() would have to keep and what there is, when it refuses.
struct RewindLimit {
  int64_t needed;           // oldest position, behind the sinks, that the next query would see
  int64_t oldest_resident;  // behind the sinks
};

class RingCache {
 public:
  /// Checks the spec and takes all memory. kValue names the field; kNoMemory.
  static Status create(const KvSpec& spec, std::unique_ptr<RingCache>* out);
  /// What create() would take, without taking it.
  static Status plan_bytes(const KvSpec& spec, size_t* out);

  const KvSpec& spec() const { return spec_; }
  /// All memory of this cache: codes, scales, padding of the tiles, positions, masks and scratch.
  size_t nbytes() const { return nbytes_; }
  /// Bytes of codes and scales that one token takes in all layers, padding of head_dim included.
  size_t bytes_per_token() const;

  /// Number of committed tokens, or rather the position of the next one (reset() may have begun past 0).
  int64_t position(size_t sequence) const { return sequences_[sequence].position; }
  /// Tokens of the open transaction; 0: none is open.
  size_t staged(size_t sequence) const { return sequences_[sequence].staged; }
  /// [slots()] position in each slot, -1: empty.
  const int64_t* slot_positions(size_t sequence) const { return sequences_[sequence].slot_pos; }

  /// Opens a transaction of 1 .. max_chunk tokens at position(sequence).
  Status stage(size_t sequence, size_t tokens);
  /// K (after RoPE at its absolute position) and V of the staged tokens, (tokens, kv_heads, head_dim) dense. A value
  /// that is not finite or that the format cannot hold is refused: layer and tensor are named, and the transaction is
  /// aborted.
  Status write(const Runtime& rt, size_t sequence, size_t layer, const float* k, const float* v);
  /// Attention of `tokens` queries, (tokens, query_heads, head_dim) dense: of the staged tokens when a transaction is
  /// open (tokens == staged, this layer written), else of the last `tokens` committed ones (at most max_chunk).
  /// q_sink, which scores the sinks, is the query rotated to min(position, sinks + window - 1); null: q.
  /// out = softmax(scale * q k) v, (tokens, query_heads, head_dim); it may not overlap q.
  Status attend(const Runtime& rt, size_t sequence, size_t layer, size_t tokens, const float* q, const float* q_sink,
                float scale, float* out);
  /// Keeps the first `accepted` (0 .. staged) tokens and closes the transaction. Needs every layer written.
  Status commit(size_t sequence, size_t accepted);
  /// Closes the transaction and keeps none of it. Nothing happens when none is open.
  void abort(size_t sequence);

  /// Takes back the last `tokens` committed tokens. kRewind: what the next query would see is no longer there.
  Status rewind(size_t sequence, size_t tokens);
  RewindLimit rewind_limit(size_t sequence, size_t tokens) const;
  /// `to` becomes a copy of `from`, which has no open transaction.
  Status fork(size_t from, size_t to);
  /// Forgets everything; the next token has this position.
  Status reset(size_t sequence, int64_t position = 0);

  /// The sequence as bytes: spec, `model` (any bytes that tell models apart), positions, the stored rows, a checksum.
  Status save(size_t sequence, std::string_view model, std::vector<uint8_t>* out) const;
  /// Continues with the same bits. kCorrupt: bytes were altered, or belong to another spec or model; the sequence is
  /// then as it was.
  Status load(size_t sequence, std::string_view model, const uint8_t* bytes, size_t size);

  /// Stored K or V of one position as floats (kv_heads, head_dim); rotated K is rotated back.
  Status read(size_t sequence, size_t layer, bool value, int64_t position, float* out) const;

 private:
  struct Sequence {
    int64_t position = 0;     // of the next token
    int64_t begin = 0;        // first position since reset()
    int64_t oldest = 0;       // behind the sinks, positions from here on are stored
    size_t staged = 0;        // tokens of the open transaction
    int64_t* slot_pos;        // [slots]
    uint8_t* written;         // [layers] by the open transaction
    uint64_t* visible;        // [max_chunk][words_] bits of slots, for the queries from mask_first on
    int64_t mask_first = -1;  // -1: none
    size_t mask_tokens = 0;
  };
  struct Queries;  // of one KV head, as K's format asks for them

  explicit RingCache(const KvSpec& spec);

  Status check(const char* function, size_t sequence, bool open) const;
  size_t slot_of(int64_t position) const;
  uint8_t* tiles(bool value, size_t sequence, size_t layer, size_t head) const;
  bool store(const Runtime& rt, bool value, size_t sequence, size_t layer, size_t head, const float* x);
  void forget(Sequence& s, int64_t first, int64_t last);
  void make_masks(Sequence& s, int64_t first, size_t tokens);
  /// Whether the ring has lost one of the positions [first, end) behind the sinks.
  bool lost(const Sequence& s, int64_t first, int64_t end) const;

  struct Attend;  // one call's arguments
  bool attend_rows(const Attend& a, size_t head, size_t row, size_t rows) const;
  bool attend_split(const Attend& a, size_t token) const;
  bool run_segment(const Attend& a, size_t head, size_t segment, size_t row, size_t rows, const Queries& queries,
                   size_t first, float* m, float* l, float* o, size_t o_ld) const;

  KvSpec spec_;
  KvTile k_tile_, v_tile_;
  size_t words_, segments_, nbytes_ = 0;
  size_t k_head_bytes_, v_head_bytes_;  // one head's tiles
  AlignedBuffer k_, v_;                 // [sequences][layers][kv_heads] tiles
  AlignedBuffer state_;                 // positions, marks and masks of the sequences
  AlignedBuffer partials_;              // [segments][query_heads] of one token: m, l, o
  std::vector<Sequence> sequences_;
};

}  // namespace ek
