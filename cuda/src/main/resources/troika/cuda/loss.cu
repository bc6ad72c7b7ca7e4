// Cross-entropy. A block has a row. Where it has the whole vocabulary and makes the gradient, it reads the row once and
// keeps it in shared memory where it fits there (`stored`); otherwise it reads it twice, the second time from the L2
// cache. Rows may start anywhere: a row is a few elements up to a multiple of 16 bytes, then packs, then a few
// elements. Blocks have at least as many threads as two packs have elements.

// The running maximum, and the sum of e^(x - maximum).
struct Softmax {
    float max;
    float sum;
};

template <int N>
__device__ __forceinline__ void include(Softmax& softmax, const float* x) {
    float max = x[0];
#pragma unroll
    for (int i = 1; i < N; i++) {
        max = fmaxf(max, x[i]);
    }
    if (max > softmax.max) {
        softmax.sum *= fast_exp(softmax.max - max);
        softmax.max = max;
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        // The product is NaN where x is not finite, also where it is minus infinity, which alone would not be seen.
        softmax.sum = fmaf(x[i], 0.0f, softmax.sum + fast_exp(x[i] - softmax.max));
    }
}

// This block's row of logits, as this thread sees it.
template <typename T>
struct Row {
    static constexpr int N = Wide<T>::N;
    T* at;
    T* body;
    int packs;
    // The single element of this thread, among those before the packs or after them, or -1.
    int single;

    __device__ __forceinline__ Row(T* logits, int columns) {
        at = logits + (long long)blockIdx.x * columns;
        int head = (int)((0 - reinterpret_cast<unsigned long long>(at)) % 16 / sizeof(T));
        head = head < columns ? head : columns;
        packs = (columns - head) / N;
        body = at + head;
        int tail = head + packs * N;
        single = (int)threadIdx.x < head ? (int)threadIdx.x : tail + (int)threadIdx.x - N;
        if (((int)threadIdx.x >= head && (int)threadIdx.x < N) || single >= columns) {
            single = -1;
        }
    }
};

// How many packs of a thread are on their way together.
#define LOADS 4

template <typename T>
__device__ __forceinline__ void set_zero(const Row<T>& row) {
    constexpr int N = Row<T>::N;
    float zeros[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        zeros[i] = 0;
    }
    for (int i = threadIdx.x; i < row.packs; i += blockDim.x) {
        store_floats<N>(row.body + i * N, zeros);
    }
    if (row.single >= 0) {
        row.at[row.single] = from_float<T>(0);
    }
}

// The row's softmax, the same for all threads; of a row without columns the sum is NaN. Its packs are kept where
// `stored`.
template <typename T>
__device__ __forceinline__ Softmax softmax_of(
        const Row<T>& row, Pack<T, Row<T>::N>* kept, int stored, float* shared) {
    constexpr int N = Row<T>::N;
    int threads = blockDim.x;
    Softmax softmax{-__int_as_float(0x7f800000), 0};
    float values[N];
    if (row.single >= 0) {
        values[0] = to_float(row.at[row.single]);
        include<1>(softmax, values);
    }
    for (int from = threadIdx.x; from < row.packs; from += LOADS * threads) {
        Pack<T, N> loaded[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            int i = from + k * threads;
            if (i < row.packs) {
                loaded[k] = load_pack<N>(row.body + i * N);
            }
        }
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            int i = from + k * threads;
            if (i < row.packs) {
                if (stored) {
                    kept[i] = loaded[k];
                }
                loaded[k].get(values);
                include<N>(softmax, values);
            }
        }
    }
    float max = block_max(softmax.max, shared);
    return Softmax{max, block_sum(softmax.sum * fast_exp(softmax.max - max), shared)};
}

// The logits become factor · e^(logit - max).
template <typename T>
__device__ __forceinline__ void set_exponentials(
        const Row<T>& row, const Pack<T, Row<T>::N>* kept, int stored, float max, float factor) {
    constexpr int N = Row<T>::N;
    int threads = blockDim.x;
    float values[N];
    if (row.single >= 0) {
        row.at[row.single] = from_float<T>(fast_exp(to_float(row.at[row.single]) - max) * factor);
    }
    for (int from = threadIdx.x; from < row.packs; from += LOADS * threads) {
        Pack<T, N> loaded[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            int i = from + k * threads;
            if (i < row.packs) {
                loaded[k] = stored ? kept[i] : load_pack<N>(row.body + i * N);
            }
        }
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            int i = from + k * threads;
            if (i < row.packs) {
                loaded[k].get(values);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    values[j] = fast_exp(values[j] - max) * factor;
                }
                store_floats<N>(row.body + i * N, values);
            }
        }
    }
}

template <typename T>
__device__ __forceinline__ void cross_entropy(
        T* logits, const int* __restrict__ labels, const float* __restrict__ scale, float* __restrict__ losses,
        int columns, int gradient, int stored) {
    extern __shared__ uint4 kept_row[];
    __shared__ float shared[WARP];
    Pack<T, Wide<T>::N>* kept = reinterpret_cast<Pack<T, Wide<T>::N>*>(kept_row);
    Row<T> row(logits, columns);
    int label = labels[blockIdx.x];
    if (label < 0) {
        if (gradient) {
            set_zero(row);
        }
        if (threadIdx.x == 0) {
            losses[blockIdx.x] = 0;
        }
        return;
    }

    float target = to_float(row.at[label]);
    Softmax softmax = softmax_of(row, kept, stored, shared);
    float log_probability = target - softmax.max - logf(softmax.sum);
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = -log_probability;
    }
    if (!gradient) {
        return;
    }

    set_exponentials(row, kept, stored, softmax.max, *scale / softmax.sum);
    __syncthreads();
    if (threadIdx.x == 0) {
        row.at[label] = from_float<T>(*scale * expm1f(log_probability));
    }
}

#define CROSS_ENTROPY(SUFFIX, T) \
    extern "C" __global__ void __launch_bounds__(1024) cross_entropy_##SUFFIX( \
            T* logits, const int* labels, const float* scale, float* losses, int columns, int gradient, int stored) { \
        cross_entropy<T>(logits, labels, scale, losses, columns, gradient, stored); \
    }
CROSS_ENTROPY(f32, float)
CROSS_ENTROPY(bf16, bf16)
CROSS_ENTROPY(f16, f16)

// Over ranks that have a range of the vocabulary each. A row's part is the maximum, the sum of e^(logit - maximum), and
// the label's logit or minus infinity.

template <typename T>
__device__ __forceinline__ void cross_entropy_part(
        T* logits, const int* __restrict__ labels, float* __restrict__ part, int columns, long long first) {
    __shared__ float shared[WARP];
    Row<T> row(logits, columns);
    int label = labels[blockIdx.x];
    float lowest = -__int_as_float(0x7f800000);
    Softmax softmax{label < 0 ? 0 : lowest, 0};
    if (label >= 0 && columns > 0) {
        softmax = softmax_of<T>(row, nullptr, 0, shared);
    }
    if (threadIdx.x == 0) {
        long long column = label - first;
        float* to = part + 3ll * blockIdx.x;
        to[0] = softmax.max;
        to[1] = softmax.sum;
        to[2] = label >= 0 && column >= 0 && column < columns ? to_float(row.at[column]) : lowest;
    }
}

#define CROSS_ENTROPY_PART(SUFFIX, T) \
    extern "C" __global__ void __launch_bounds__(1024) cross_entropy_part_##SUFFIX( \
            T* logits, const int* labels, float* part, int columns, long long first) { \
        cross_entropy_part<T>(logits, labels, part, columns, first); \
    }
CROSS_ENTROPY_PART(f32, float)
CROSS_ENTROPY_PART(bf16, bf16)
CROSS_ENTROPY_PART(f16, f16)

// `parts` [ranks, rows, 3], the rows being the grid's blocks.
template <typename T>
__device__ __forceinline__ void cross_entropy_whole(
        T* logits, const int* __restrict__ labels, const float* __restrict__ parts, int ranks,
        const float* __restrict__ scale, float* __restrict__ losses, int columns, long long first, int gradient) {
    Row<T> row(logits, columns);
    int label = labels[blockIdx.x];
    if (label < 0) {
        if (gradient) {
            set_zero(row);
        }
        if (threadIdx.x == 0) {
            losses[blockIdx.x] = 0;
        }
        return;
    }

    const float* part = parts + 3ll * blockIdx.x;
    long long stride = 3ll * gridDim.x;
    float max = -__int_as_float(0x7f800000);
    float target = max;
    for (int rank = 0; rank < ranks; rank++) {
        max = fmaxf(max, part[rank * stride]);
        target = fmaxf(target, part[rank * stride + 2]);
    }
    float sum = 0;
    for (int rank = 0; rank < ranks; rank++) {
        sum = fmaf(part[rank * stride + 1], fast_exp(part[rank * stride] - max), sum);
    }
    float log_probability = target - max - logf(sum);
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = -log_probability;
    }
    if (!gradient) {
        return;
    }

    set_exponentials<T>(row, nullptr, 0, max, *scale / sum);
    __syncthreads();
    long long column = label - first;
    if (threadIdx.x == 0 && column >= 0 && column < columns) {
        row.at[column] = from_float<T>(*scale * expm1f(log_probability));
    }
}

#define CROSS_ENTROPY_WHOLE(SUFFIX, T) \
    extern "C" __global__ void __launch_bounds__(1024) cross_entropy_whole_##SUFFIX( \
            T* logits, const int* labels, const float* parts, int ranks, const float* scale, float* losses, \
            int columns, long long first, int gradient) { \
        cross_entropy_whole<T>(logits, labels, parts, ranks, scale, losses, columns, first, gradient); \
    }
CROSS_ENTROPY_WHOLE(f32, float)
CROSS_ENTROPY_WHOLE(bf16, bf16)
CROSS_ENTROPY_WHOLE(f16, f16)

// loss (+)= scale · the sum of the rows' losses; one block.
extern "C" __global__ void __launch_bounds__(1024) sum_losses(
        const float* losses, int rows, const float* scale, float* loss, int accumulate) {
    __shared__ double shared[WARP];
    double sum = 0;
    for (int t = threadIdx.x; t < rows; t += blockDim.x) {
        sum += losses[t];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        sum *= *scale;
        *loss = (float)(accumulate ? *loss + sum : sum);
    }
}
