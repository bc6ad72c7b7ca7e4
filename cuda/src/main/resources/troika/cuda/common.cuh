// Put before every source. Nothing is included: where only libraries are installed there are no headers.

struct bf16 {
    unsigned short bits;
};

struct f16 {
    unsigned short bits;
};

#define WARP 32
#define ALL_LANES 0xffffffffu

template <typename T>
__device__ __forceinline__ T ceil_div(T a, T b) {
    return (a + b - 1) / b;
}

// Conversions. Arithmetic is in fp32; results are rounded to nearest even.

__device__ __forceinline__ float to_float(float x) {
    return x;
}

__device__ __forceinline__ float to_float(bf16 x) {
    return __uint_as_float((unsigned)x.bits << 16);
}

__device__ __forceinline__ float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

template <typename T>
__device__ __forceinline__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}

template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two elements in a word, the first in its lower half.

__device__ __forceinline__ void word_to_floats(bf16, unsigned word, float* out) {
    out[0] = __uint_as_float(word << 16);
    out[1] = __uint_as_float(word & 0xffff0000u);
}

__device__ __forceinline__ void word_to_floats(f16, unsigned word, float* out) {
    out[0] = to_float(f16{(unsigned short)word});
    out[1] = to_float(f16{(unsigned short)(word >> 16)});
}

__device__ __forceinline__ unsigned floats_to_word(bf16, float first, float second) {
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
}

__device__ __forceinline__ unsigned floats_to_word(f16, float first, float second) {
    unsigned word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
}

// e^x to about 2e-7 (times |x| where that is large); what is below the normal numbers is 0.
__device__ __forceinline__ float fast_exp(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
    return y;
}

// N elements that one thread loads and stores at once, at an address that is a multiple of their size: 16 bytes of
// them, 8, or a single element, which is for rows whose length or place allows no more.

template <typename T, int N>
struct Pack;

template <>
struct Pack<float, 4> {
    float4 raw;

    __device__ __forceinline__ void get(float* out) const {
        out[0] = raw.x;
        out[1] = raw.y;
        out[2] = raw.z;
        out[3] = raw.w;
    }

    __device__ __forceinline__ void set(const float* in) {
        raw.x = in[0];
        raw.y = in[1];
        raw.z = in[2];
        raw.w = in[3];
    }
};

template <typename T>
struct Pack<T, 8> {
    uint4 raw;

    __device__ __forceinline__ void get(float* out) const {
        word_to_floats(T(), raw.x, out);
        word_to_floats(T(), raw.y, out + 2);
        word_to_floats(T(), raw.z, out + 4);
        word_to_floats(T(), raw.w, out + 6);
    }

    __device__ __forceinline__ void set(const float* in) {
        raw.x = floats_to_word(T(), in[0], in[1]);
        raw.y = floats_to_word(T(), in[2], in[3]);
        raw.z = floats_to_word(T(), in[4], in[5]);
        raw.w = floats_to_word(T(), in[6], in[7]);
    }
};

template <typename T>
struct Pack<T, 4> {
    uint2 raw;

    __device__ __forceinline__ void get(float* out) const {
        word_to_floats(T(), raw.x, out);
        word_to_floats(T(), raw.y, out + 2);
    }

    __device__ __forceinline__ void set(const float* in) {
        raw.x = floats_to_word(T(), in[0], in[1]);
        raw.y = floats_to_word(T(), in[2], in[3]);
    }
};

template <typename T>
struct Pack<T, 1> {
    T raw;

    __device__ __forceinline__ void get(float* out) const {
        out[0] = to_float(raw);
    }

    __device__ __forceinline__ void set(const float* in) {
        raw = from_float<T>(in[0]);
    }
};

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* at) {
    return *reinterpret_cast<const Pack<T, N>*>(at);
}

template <int N, typename T>
__device__ __forceinline__ void load_floats(const T* at, float* out) {
    load_pack<N>(at).get(out);
}

template <int N, typename T>
__device__ __forceinline__ void store_floats(T* at, const float* in) {
    Pack<T, N> pack;
    pack.set(in);
    *reinterpret_cast<Pack<T, N>*>(at) = pack;
}

// Elements in 16 bytes.
template <typename T>
struct Wide {
    static constexpr int N = 16 / sizeof(T);
};

// Reductions. Their order depends on the number of threads alone, and every thread gets the result.

template <typename S>
__device__ __forceinline__ S warp_sum(S x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, offset);
    }
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    }
    return x;
}

// The sum over a block of whole warps. `shared` holds an element for each warp; it may be used again at once.
template <typename S>
__device__ __forceinline__ S block_sum(S x, S* shared) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    x = threadIdx.x % WARP < blockDim.x / WARP ? shared[threadIdx.x % WARP] : S(0);
    x = warp_sum(x);
    __syncthreads();
    return x;
}

__device__ __forceinline__ float block_max(float x, float* shared) {
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    x = shared[threadIdx.x % WARP < blockDim.x / WARP ? threadIdx.x % WARP : 0];
    x = warp_max(x);
    __syncthreads();
    return x;
}

// Kernels of each dtype: NAME_f32, NAME_bf16 and NAME_f16, which need aligned rows, and NAME_f32_any, …, which do not.
#define FOR_DTYPES(DEFINE) \
    DEFINE(f32, float, 4) \
    DEFINE(bf16, bf16, 8) \
    DEFINE(f16, f16, 8) \
    DEFINE(f32_any, float, 1) \
    DEFINE(bf16_any, bf16, 1) \
    DEFINE(f16_any, f16, 1)
