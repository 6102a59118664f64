# Builds libcausvid, the `causvid` program, FFmpeg with the causvid source, and
# runs the tests. `make help` lists the targets.
#
# SPDX-License-Identifier: BSD-2-Clause

# Everything that is made lies here. `make BUILD=DIR` keeps several builds side
# by side; `./configure --build-dir=DIR` gives each its own settings.
BUILD ?= build

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:

# These goals need no configuration, or see to it themselves.
UNCONFIGURED := demo check setup fuzz check-threads dist clean distclean help
ifneq ($(filter-out $(UNCONFIGURED),$(or $(MAKECMDGOALS),all)),)
include $(BUILD)/config.mak
endif

# config.mak changes only when its content does, `configured` each time.
$(BUILD)/config.mak: $(BUILD)/configured ;
$(BUILD)/configured: configure engine/causvid.h patches/libraries.txt
	@if [ -e $(BUILD)/config.status ]; then \
	    sh $(BUILD)/config.status --quiet; \
	else \
	    ./configure --build-dir=$(BUILD); \
	fi

# ------------------------------------------------------------- the library

LIB_SRC := $(wildcard engine/*.c) \
           $(filter-out engine/cli/%,$(wildcard engine/*/*.c engine/*/*.cc))
CLI_SRC := $(wildcard engine/cli/*.c)
EVALUATE_SRC := $(wildcard samples/measure/*.c)

objects = $(patsubst %,$(BUILD)/obj/%.o,$(1))
LIB_OBJ := $(call objects,$(LIB_SRC))

LIB_STATIC := $(BUILD)/lib/libcausvid-internal.a
SONAME := libcausvid.so.0
LIB_SHARED := $(BUILD)/lib/libcausvid.so
CLI := $(if $(CLI_SRC),$(BUILD)/bin/causvid)
EVALUATE := $(if $(EVALUATE_SRC),$(BUILD)/bin/evaluate)

.PHONY: all
all: $(LIB_SHARED) $(LIB_STATIC) $(CLI) $(EVALUATE) $(BUILD)/lib/pkgconfig/causvid.pc
ifeq ($(HAVE_CUDA),1)
all: $(BUILD)/lib/libcausvid_cuda.so
endif

$(BUILD)/obj/%.c.o: %.c $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "CC      $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.cc.o: %.cc $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "CXX     $<"
	@$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<

# With all internal symbols: for the programs and tests here, not installed.
$(LIB_STATIC): $(LIB_OBJ)
	@mkdir -p $(@D)
	@echo "AR      $@"
	@rm -f $@
	@$(AR) qcs $@ $(LIB_OBJ)

# Symbols of the C++ library are visible by its own headers; the version script
# keeps them out of ours.
$(BUILD)/lib/$(SONAME): $(LIB_OBJ)
	@mkdir -p $(@D)
	@echo "LD      $@"
	@echo '{ global: causvid_*; local: *; };' > $(BUILD)/causvid.map
	@$(CXX) -shared -Wl,-soname,$(SONAME) \
	    -Wl,--version-script,$(BUILD)/causvid.map \
	    $(if $(filter release debug,$(MODE)),-Wl$(comma)-z$(comma)defs) \
	    -o $@ $(LIB_OBJ) $(LDFLAGS) $(LIBS)
comma := ,

$(LIB_SHARED): $(BUILD)/lib/$(SONAME)
	@ln -sf $(SONAME) $@
	@touch -h $@

# $(call write-pc,FILE,PREFIX,LIBDIR,INCLUDEDIR)
write-pc = printf '%s\n' 'prefix=$(2)' 'libdir=$(3)' 'includedir=$(4)' '' 'Name: causvid' \
    'Description: Video from text with the CausVid family of Wan 2.1 models' \
    'Version: $(VERSION)' 'Libs: -L$${libdir} -lcausvid' \
    'Cflags: -I$${includedir}' > $(1)

# For what is built against the library before it is installed, as FFmpeg is.
$(BUILD)/lib/pkgconfig/causvid.pc: $(BUILD)/config.mak
	@mkdir -p $(@D)
	@$(call write-pc,$@,$(abspath $(BUILD)),$${prefix}/lib,$(SRC)/engine)

# Which commit was built, for benchmarks; written only when that changes.
.PHONY: force
$(BUILD)/commit.h: force
	@mkdir -p $(@D)
	@export GIT_OPTIONAL_LOCKS=0; \
	if [ -e .git ] && commit=$$(git describe --always --dirty 2> /dev/null); \
	then line="#define CV_COMMIT \"$$commit\""; \
	elif [ -e $@ ]; then line=$$(cat $@); \
	else line='#define CV_COMMIT "no commit"'; fi; \
	[ -e $@ ] && [ "$$(cat $@)" = "$$line" ] || echo "$$line" > $@
$(BUILD)/obj/engine/cli/bench_print.c.o: $(BUILD)/commit.h

# $(call program,FILE,SOURCES): a program of these files and the library
define program
$(1): $(call objects,$(2)) $$(LIB_STATIC)
	@mkdir -p $$(@D)
	@echo "LD      $$@"
	@$$(CXX) -o $$@ $$(filter %.o,$$^) $$(EXTRA) $$(LIB_STATIC) $$(LDFLAGS) $$(LIBS)
endef
$(if $(CLI),$(eval $(call program,$(CLI),$(CLI_SRC))))
$(if $(EVALUATE),$(eval $(call program,$(EVALUATE),$(EVALUATE_SRC))))

# -------------------------------------------------------- the CUDA backend

# A module of its own, loaded at run time, so that the library needs no CUDA.
CUDA_SRC := $(wildcard cuda/*.c cuda/*.cu)
CUDA_OBJ := $(call objects,$(CUDA_SRC))
CUDA_MODULE := $(BUILD)/lib/libcausvid_cuda.so
# Of the library; the module has its own copy.
SHARED_OBJ := $(call objects,engine/log.c engine/tensor.c engine/cpu/threads.c)

$(BUILD)/obj/cuda/%.c.o: cuda/%.c $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "CC      $<"
	@$(CC) $(CPPFLAGS) -Icuda $(CUDA_CFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj/cuda/%.cu.o: cuda/%.cu $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "NVCC    $<"
	@$(NVCC) -std=c++17 -O3 -lineinfo $(CUDA_GENCODE) \
	    -Xptxas=--warn-on-spills $(if $(WERROR),-Werror all-warnings) \
	    -Xcompiler=-fPIC,-fvisibility=hidden,-Wall \
	    -Icuda -Iengine -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

# The CUDA runtime is in the module. cuBLASLt is not: with it the module would
# take more than half a gigabyte. It is found where it was when building, or
# where the system's loader looks.
$(CUDA_MODULE): $(CUDA_OBJ) $(SHARED_OBJ)
	@mkdir -p $(@D)
	@echo "LD      $@"
	@echo '{ global: cv_cuda_open; local: *; };' > $(BUILD)/causvid_cuda.map
	@$(CXX) -shared -Wl,-soname,$(@F) -Wl,-z,defs \
	    -Wl,--version-script,$(BUILD)/causvid_cuda.map \
	    -o $@ $^ $(LDFLAGS) $(CUDA_LIBS) -lm

# The same files for the CPU: see tests/emulator/README.md.
EMULATED_OBJ := $(patsubst %,$(BUILD)/emulator/obj/%.o,$(CUDA_SRC) \
    $(filter-out tests/emulator/test_%,$(wildcard tests/emulator/*.cc)))
EMULATED_MODULE := $(BUILD)/emulator/libcausvid_cuda.so
# Warnings about pragmas for nvcc, loops that clang does not unroll and an old
# ABI are off.
# A GPU refuses addresses that are not multiples of a vector's size: here a
# trap does. Of the sanitizers those are left out that cost most and find what
# the address sanitizer finds as well. The thread sanitizer cannot follow
# coroutines: it sees the host's side only.
EMULATE = -DCV_EMULATE -Icuda -Itests/emulator $(CPPFLAGS)
EMULATE_CXX = $(EMULATE) $(CXXFLAGS) -O2 -Wno-unknown-pragmas -Wno-pass-failed \
    -Wno-psabi \
    $(if $(filter release debug,$(MODE)), \
        -fsanitize=alignment -fsanitize-undefined-trap-on-error, \
        $(if $(filter threads,$(MODE)),-fno-sanitize=thread, \
            -fno-sanitize=null$(comma)object-size$(comma)pointer-overflow))

$(BUILD)/emulator/obj/%.c.o: %.c $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "CC      $< (emulated)"
	@$(CC) $(EMULATE) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/emulator/obj/%.cu.o: %.cu $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "CXX     $< (emulated)"
	@$(CXX) $(EMULATE_CXX) -MMD -MP -x c++ -c -o $@ $<

$(BUILD)/emulator/obj/%.cc.o: %.cc $(BUILD)/config.mak
	@mkdir -p $(@D)
	@echo "CXX     $<"
	@$(CXX) $(EMULATE_CXX) -MMD -MP -c -o $@ $<

# For tests of the engine: CAUSVID_CUDA_MODULE is to name it.
$(EMULATED_MODULE): $(EMULATED_OBJ) $(SHARED_OBJ)
	@mkdir -p $(@D)
	@echo "LD      $@"
	@echo '{ global: cv_cuda_open; local: *; };' > $(@D)/module.map
	@$(CXX) -shared -Wl,-soname,$(@F) -Wl,--version-script,$(@D)/module.map \
	    -o $@ $^ $(LDFLAGS) -lm

# ------------------------------------------------------------------- tests

# tests/X/test_NAME.c is a program that prints TAP, tests/X/NAME.t a shell
# script that does. Other C files in tests/ and in tests/X are linked with the
# programs (of X).
C_TESTS := $(foreach d,unit ops model,$(wildcard tests/$(d)/test_*.c))
FUZZERS := $(wildcard tests/fuzz/fuzz_*.c)
c_test = $(patsubst %.c,$(BUILD)/%,$(filter tests/$(1)/%,$(C_TESTS)))
t_test = $(wildcard tests/$(1)/*.t)
helpers = $(wildcard tests/*.c) \
    $(filter-out $(wildcard tests/$(1)/test_*.c tests/$(1)/fuzz_*.c),$(wildcard tests/$(1)/*.c))

$(foreach t,$(C_TESTS),$(eval $(call program,$(BUILD)/$(t:.c=),\
    $(t) $(call helpers,$(word 2,$(subst /, ,$(t)))))))
$(foreach f,$(FUZZERS),$(eval $(call program,$(BUILD)/$(f:.c=),\
    $(f) $(call helpers,fuzz))))
$(BUILD)/tests/fuzz/%: EXTRA = -fsanitize=fuzzer

$(BUILD)/tests/ops/test_ops: $(EMULATED_OBJ)

# Calls of these end in the test, which lets them fail.
$(BUILD)/tests/model/test_faults: $(EMULATED_OBJ)
$(BUILD)/tests/model/test_faults: EXTRA = $(addprefix -Wl$(comma)--wrap=, \
    malloc calloc realloc free strdup posix_memalign scandir open mkstemp read \
    pread write fstat rename fopen mmap munmap dlopen dlsym pthread_create pthread_join)

# Random models in files, for measuring.
WRITE_MODEL := $(BUILD)/tests/gpu/write_model
$(eval $(call program,$(WRITE_MODEL),tests/gpu/write_model.c tests/random_file.c))

TEST_EMULATOR := $(BUILD)/tests/emulator/test_emulator
$(TEST_EMULATOR): $(BUILD)/emulator/obj/tests/emulator/test_emulator.cc.o \
        $(filter $(BUILD)/emulator/obj/tests/%,$(EMULATED_OBJ))
	@mkdir -p $(@D)
	@echo "LD      $@"
	@$(CXX) -o $@ $^ $(LDFLAGS) -lm

.PHONY: tests
tests: $(patsubst %.c,$(BUILD)/%,$(C_TESTS)) $(TEST_EMULATOR) $(EMULATED_MODULE) \
    $(WRITE_MODEL)

# Tests find everything through these.
TEST_ENV = CAUSVID_SRC=$(SRC) CAUSVID_BUILD=$(abspath $(BUILD)) \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# Each test is run as a program of its own: scripts have a #! line.
PROVE = env $(TEST_ENV) prove --timer --failures --merge

.PHONY: check-unit check-ops check-model check-bench check-engine
check-unit check-ops check-model check-bench: check-%: all tests
	@echo "== tests/$*"
	@set -- $(if $(filter ops,$*),$(TEST_EMULATOR)) \
	    $(call c_test,$*) $(call t_test,$*); \
	if [ $$# = 0 ]; then \
	    echo "There are no tests in tests/$*." >&2; exit 1; \
	fi; \
	$(PROVE) --exec '' "$$@"
check-engine: check-unit check-ops check-model check-bench

# The same programs under valgrind, not a part of make check: it takes long.
# Those that try damaged models by the hundred are left to the
# sanitizers, and so are those that load the emulated CUDA backend, whose
# coroutines valgrind cannot follow.
VALGRIND = valgrind -q --error-exitcode=99 --leak-check=full
.PHONY: check-valgrind
check-valgrind: all tests
	@$(PROVE) --exec '$(VALGRIND)' $(filter-out %/test_device,$(call c_test,unit)) \
	    $(filter-out %/test_bad_models %/test_bad_weights %/test_cuda %/test_engines %/test_faults %/test_fp8 \
	        %/test_layouts %/test_loading %/test_lora %/test_ring %/test_tiny_vae,$(call c_test,model))

# What has several threads, built with the thread sanitizer in a configuration
# of its own: on the CPU, and the host's side of the emulated CUDA backend.
THREADED := unit/test_api unit/test_load ops/test_threads model/test_loading \
    model/test_ring model/test_engines
.PHONY: check-threads run-threads
check-threads:
	@[ -e $(BUILD)/threads/config.mak ] || ./configure --quiet \
	    --build-dir=$(BUILD)/threads --enable-threads --disable-cuda --disable-blas
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/threads run-threads

run-threads: $(THREADED:%=$(BUILD)/tests/%) $(EMULATED_MODULE)
	@$(PROVE) --exec '' $(THREADED:%=$(BUILD)/tests/%)

# The fuzzers are built in a configuration of their own, by clang.
FUZZ_SECONDS ?= 60
FUZZ_JOBS ?= 2

.PHONY: fuzz run-fuzz
fuzz:
	@[ -e $(BUILD)/fuzz/config.mak ] || \
	    ./configure --quiet --build-dir=$(BUILD)/fuzz --enable-fuzz
	@$(MAKE) --no-print-directory -j$(FUZZ_JOBS) BUILD=$(BUILD)/fuzz run-fuzz

run-fuzz: $(FUZZERS:tests/fuzz/%.c=run-%)
	@[ -n "$(FUZZERS)" ] || { echo "There are no tests/fuzz/fuzz_*.c." >&2; exit 1; }

# New inputs go to the build folder; those in git are only read. A crash leaves
# its input beside the log.
.PHONY: $(FUZZERS:tests/fuzz/%.c=run-%)
$(FUZZERS:tests/fuzz/%.c=run-%): run-fuzz_%: $(BUILD)/tests/fuzz/fuzz_%
	@mkdir -p $(BUILD)/new-inputs/$*
	@echo "FUZZ    $* for $(FUZZ_SECONDS) s"
	@$< -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=2048 \
	    -print_final_stats=1 -artifact_prefix=$(BUILD)/fuzz_$*- \
	    $(BUILD)/new-inputs/$* $(wildcard tests/fuzz/corpus/$*) \
	    > $(BUILD)/fuzz_$*.log 2>&1 || { \
	    tail -n 60 $(BUILD)/fuzz_$*.log; \
	    echo "fuzz_$* failed: $(BUILD)/fuzz_$*.log" >&2; exit 1; }
	@echo "  $*: $$(sed -n 's/^stat::number_of_executed_units: */runs /p' \
	    $(BUILD)/fuzz_$*.log), $$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' \
	    $(BUILD)/fuzz_$*.log | tail -n 1) edges, nothing found"

# ------------------------------------------------------------------ FFmpeg

# make ffmpeg [FFMPEG_VERSION=7.1|8.1|9.0] [FFMPEG_SRC=DIR] [FFMPEG_CACHE=DIR]
#             [FFMPEG_FLAGS=...] [FFMPEG_PROFILE=small]
export FFMPEG_VERSION FFMPEG_SRC FFMPEG_CACHE FFMPEG_FLAGS JOBS
FFMPEG_PROFILE ?= default

.PHONY: ffmpeg
ffmpeg: all
	@patches/build.sh $(if $(filter small,$(FFMPEG_PROFILE)),--small) $(BUILD)

# ------------------------------------- one command from a fresh clone to a result

# Installs missing packages (saying so) and configures, once.
$(BUILD)/setup: configure patches/libraries.txt
	@mkdir -p $(BUILD)
	@if [ -e $(BUILD)/config.status ]; then \
	    sh $(BUILD)/config.status --install-missing; \
	else \
	    ./configure --build-dir=$(BUILD) --install-missing; \
	fi
	@touch $@

.PHONY: setup demo run-demo check run-check
setup: $(BUILD)/setup
demo check: %: $(BUILD)/setup
	@$(MAKE) --no-print-directory run-$@

DEMO := causvid=prompt='a red circle moves right on a blue background':seed=1
run-demo: ffmpeg
	@echo "$(BUILD)/bin/ffmpeg -y -f lavfi -i \"$(DEMO)\"" \
	    "-c:v libx264 -pix_fmt yuv420p $(BUILD)/demo.mp4"
	@$(BUILD)/bin/ffmpeg -nostdin -hide_banner -y -f lavfi -i "$(DEMO)" \
	    -c:v libx264 -pix_fmt yuv420p $(BUILD)/demo.mp4
	@echo
	@echo "$(abspath $(BUILD)/demo.mp4)"
	@echo "shows: a red circle moves right on a blue background, as the small"
	@echo "model in samples/shapes draws it. Play it with any video player:"
	@echo "    ffplay $(BUILD)/demo.mp4    or    mpv $(BUILD)/demo.mp4"

run-check: all tests
	@env $(TEST_ENV) tests/check.sh $(BUILD)

# On a real GPU; where there is none, one line says so and nothing runs.
# GPU_PARTS: some of its parts, see tests/gpu/run.sh.
GPU_PARTS ?=
.PHONY: check-gpu
ifeq ($(HAVE_CUDA),1)
check-gpu: all $(patsubst %,$(BUILD)/tests/%,ops/test_ops model/test_cuda \
        model/test_engines model/test_tiny_vae model/test_lora model/test_fp8 \
        model/test_ring)
	@env $(TEST_ENV) tests/gpu/run.sh $(GPU_PARTS)
else
check-gpu:
	@echo "make $@: this build has no CUDA backend; ./configure" \
	    "--enable-cuda says what is missing." >&2
	@exit 1
endif

# The sample model; on a GPU the whole suite (tests/bench/suite.py), with what
# clips are to take, and PyTorch beside it where PYTHON has it. BENCH=short fits
# into five minutes. BENCH_ARGS: more of the suite's arguments, such as
# "--model-14b /models/wan-14b" or "--chart docs/images/steps.svg".
PYTHON ?= python3
BENCH ?= full
BENCH_ARGS ?=
.PHONY: bench
bench: all $(if $(filter 1,$(HAVE_CUDA)),$(BUILD)/tests/ops/test_ops)
	@$(CLI) bench
ifeq ($(HAVE_CUDA),1)
	@if $(CLI) bench --device cuda --model random:tiny --runs 1 > /dev/null; \
	then \
	    $(PYTHON) tests/bench/suite.py --causvid $(CLI) --set $(BENCH) \
	        --out $(BUILD)/bench --peer all \
	        $(if $(filter short,$(BENCH)),--budget 300) $(BENCH_ARGS); \
	fi
endif

# ------------------------------------------------------- install, dist, clean

# In the shell's quotes: blanks in DESTDIR must not make two paths of one.
D = '$(DESTDIR)$(PREFIX)'

.PHONY: install uninstall
install: all
	install -d $(D)/bin $(D)/include $(D)/lib/pkgconfig $(D)/share/causvid $(D)/share/man/man1
	install -m 755 $(BUILD)/lib/$(SONAME) $(D)/lib/$(SONAME)
	ln -sf $(SONAME) $(D)/lib/libcausvid.so
	$(if $(filter 1,$(HAVE_CUDA)),install -m 755 $(CUDA_MODULE) $(D)/lib/libcausvid_cuda.so)
	install -m 644 engine/causvid.h $(D)/include/causvid.h
	$(call write-pc,$(D)/lib/pkgconfig/causvid.pc,$(PREFIX),$${prefix}/lib,$${prefix}/include)
	chmod 644 $(D)/lib/pkgconfig/causvid.pc
	$(if $(CLI),install -m 755 $(CLI) $(D)/bin/causvid)
	$(foreach m,$(wildcard docs/*.1),install -m 644 $(m) $(D)/share/man/man1/ &&) true
	rm -rf $(D)/share/causvid/shapes
	cp -R samples/shapes $(D)/share/causvid/shapes
	chmod -R u=rwX,go=rX $(D)/share/causvid/shapes
	@echo
	@echo "Installed in $(PREFIX). If programs do not find libcausvid.so.0, run ldconfig."

uninstall:
	rm -f $(D)/lib/$(SONAME) $(D)/lib/libcausvid.so \
	    $(D)/lib/libcausvid_cuda.so $(D)/include/causvid.h \
	    $(D)/lib/pkgconfig/causvid.pc $(D)/bin/causvid \
	    $(patsubst docs/%,$(D)/share/man/man1/%,$(wildcard docs/*.1))
	rm -rf $(D)/share/causvid

.PHONY: dist clean distclean help
dist:
	@version=$$(sed -n 's/^#define CAUSVID_VERSION_[A-Z]*OR \([0-9]*\)$$/\1/p; s/^#define CAUSVID_VERSION_MICRO \([0-9]*\)$$/\1/p' engine/causvid.h | paste -sd .); \
	git archive --prefix=causvid-$$version/ -o causvid-$$version.tar.gz HEAD && \
	echo "causvid-$$version.tar.gz holds the files of the last commit"

# Settings and downloaded archives stay.
clean:
	rm -rf $(filter-out $(addprefix $(BUILD)/,cache config.% configured setup),$(wildcard $(BUILD)/*))

distclean:
	rm -rf $(BUILD)

help:
	@echo "make               the library, $(BUILD)/bin/causvid, $(BUILD)/bin/evaluate"
	@echo "make demo          set up everything, make $(BUILD)/demo.mp4"
	@echo "make check         set up everything, run every test that needs no GPU"
	@echo "make check-unit, check-ops, check-model, check-bench, check-engine"
	@echo "                   some of the tests, without FFmpeg"
	@echo "make check-gpu     the tests that need a GPU on a machine with one"
	@echo "make bench         measure clips: the sample model; on a GPU also large ones,"
	@echo "                   their targets, PyTorch where PYTHON=$(PYTHON) has it;"
	@echo "                   BENCH=short takes five minutes"
	@echo "make check-valgrind   unit and model tests under valgrind"
	@echo "make check-threads what has several threads, with the thread sanitizer"
	@echo "make fuzz          run the fuzzers, FUZZ_SECONDS=$(FUZZ_SECONDS) each"
	@echo "make ffmpeg        FFmpeg with the causvid source, $(BUILD)/bin/ffmpeg;"
	@echo "                   FFMPEG_VERSION=7.1|8.1|9.0, FFMPEG_SRC=DIR,"
	@echo "                   FFMPEG_CACHE=DIR, FFMPEG_FLAGS=..., JOBS=N"
	@echo "make install       to the --prefix of configure, under DESTDIR;"
	@echo "                   make uninstall takes it away"
	@echo "make dist          archive of the last commit"
	@echo "make clean         keeps settings and downloads; make distclean nothing"
	@echo "make BUILD=DIR ... another build folder, see ./configure --help"

-include $(patsubst %,$(BUILD)/obj/%.d,$(basename $(foreach s,$(LIB_SRC) \
    $(CLI_SRC) $(EVALUATE_SRC) $(CUDA_SRC) $(wildcard tests/*.c tests/*/*.c),$(s).o)))
-include $(EMULATED_OBJ:.o=.d) $(BUILD)/emulator/obj/tests/emulator/test_emulator.cc.d
