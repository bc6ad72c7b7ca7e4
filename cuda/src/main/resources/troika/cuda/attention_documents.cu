// What cuDNN's attention over documents needs to know of them, from their tokens' positions.

constexpr int DOCUMENT_THREADS = 512;

// A block for each slice of whole sequences. Its lists, of list_ints integers each: lengths; offsets of first elements in
// qkv, in out and in the statistics, each with one more for the end. Documents are in order, and empty ones behind them.
// Where a slice has more documents than slots, all are empty and its flag is set.
extern "C" __global__ void __launch_bounds__(DOCUMENT_THREADS)
    attention_documents(const int *all_positions, int *all_lists, int *flags, int sequence, int sequences,
                        int sequences_of_slice, int slots_of_sequence, int list_ints, int qkv_row, int out_row,
                        int heads) {
    extern __shared__ int starts[]; // slots + 1
    __shared__ int counts[DOCUMENT_THREADS];
    int slice = blockIdx.x, in_slice = min(sequences_of_slice, sequences - slice * sequences_of_slice);
    int tokens = in_slice * sequence, slots = in_slice * slots_of_sequence;
    const int *positions = all_positions + static_cast<long long>(slice) * sequences_of_slice * sequence;
    int *lengths = all_lists + static_cast<long long>(slice) * 4 * list_ints;
    int part = (tokens + DOCUMENT_THREADS - 1) / DOCUMENT_THREADS;
    int from = min(tokens, static_cast<int>(threadIdx.x) * part), to = min(tokens, from + part);
    int count = 0;
    for (int t = from; t < to; t++)
        count += positions[t] == 0 || t % sequence == 0;
    counts[threadIdx.x] = count;
    __syncthreads();
    for (int distance = 1; distance < DOCUMENT_THREADS; distance *= 2) {
        int before = threadIdx.x >= distance ? counts[threadIdx.x - distance] : 0;
        __syncthreads();
        counts[threadIdx.x] += before;
        __syncthreads();
    }
    int documents = counts[DOCUMENT_THREADS - 1], next = counts[threadIdx.x] - count;
    bool fits = documents <= slots;
    if (fits)
        for (int t = from; t < to; t++)
            if (positions[t] == 0 || t % sequence == 0) starts[next++] = t;
    __syncthreads();
    if (threadIdx.x == 0) flags[slice] = !fits;
    for (int i = threadIdx.x; i <= slots; i += DOCUMENT_THREADS) {
        int start = !fits ? 0 : i < documents ? starts[i] : tokens;
        int end = !fits ? 0 : i + 1 < documents ? starts[i + 1] : tokens;
        if (i < slots) lengths[i] = end - start;
        lengths[list_ints + i] = start * qkv_row;
        lengths[2 * list_ints + i] = start * out_row;
        lengths[3 * list_ints + i] = start * heads;
    }
}

// Log-sum-exps between the order of the kernels' contract, [batch, heads, sequence], and cuDNN's, of a slice: [tokens,
// heads] or [slots, heads, sequence], the rows of a slot from its document's first token on.
extern "C" __global__ void __launch_bounds__(256)
    attention_statistics(float *log_sum_exp, float *statistics, const int *lengths, int list_ints, int sequence, int heads,
                         int token_major, int to_statistics) {
    int slot = blockIdx.x, head = blockIdx.y, length = lengths[slot], start = lengths[3 * list_ints + slot] / heads;
    for (int r = threadIdx.x; r < length; r += blockDim.x) {
        long long token = start + r;
        long long a = (token / sequence * heads + head) * sequence + token % sequence;
        long long b = token_major ? token * heads + head : (static_cast<long long>(slot) * heads + head) * sequence + r;
        if (to_statistics) statistics[b] = log_sum_exp[a];
        else log_sum_exp[a] = statistics[b];
    }
}
