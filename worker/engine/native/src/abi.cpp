// The number that worker/engine/native/library.py expects: what is loaded fits what calls it.
extern "C" int mv_abi() { return 1; }
