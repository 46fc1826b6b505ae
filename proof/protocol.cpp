// Explicit-state checker for the MetaStack protocol. One VM name, N nodes. Freeze = a process simply takes no step.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cstdint>
#include <string>
#include <vector>
#include <map>
#include <functional>
#include <chrono>
using namespace std; typedef uint8_t u8;
#ifndef N
#define N 2
#endif
enum{GONE=0,OFF=1,ON=2}; enum{DNONE=0,DDEF=1,DRUN=2,DINC=3,DPSRC=4,DREADY=5};
struct Store{u8 son,srev,suid, cn,cs,ce,crev,cuid,ho,hos,hoe, clk, alive[N],ft[N],fd[N],frev[N],fby[N],fp[N],rdy[N];};
struct Node{u8 up,ses,clr,wrk,rthr, dom,ds,de,du, bt,bs,be,bu, odef,ost,ors,os,oe,ou, fop,ftg,fir, unb,ounb,oblk, mg,mgt,mgs,mge,mgf, del;};
enum{BL,BC,BH,BO,BD,BM,BR,BF,BW,BS,NB}; // budgets: lease loss, agent crash, host crash, operator, drain-release, migrations, host restarts, finish-reply-lost/mig fail
struct State{Store st; u8 ns[N],blk[N]; Node n[N]; Store v[N]; u8 b[NB]; u8 maxep,maxrun,dsk,bad;};
map<string,int> F;
static int f(const char*k){auto it=F.find(k); if(it==F.end()){fprintf(stderr,"no flag %s\n",k);exit(2);} return it->second;}
// flags cached
#define FL(X) X(VIEW) X(KILLALL) X(UNBFIX) X(GATE) X(SELFF) X(DRAIN) X(UNDEF) X(DEFFIRST) X(EPREV) X(THRU) X(WAITF) X(KILLF) \
 X(g_reg_f) X(g_cl_c) X(g_cl_s) X(g_cl_a) X(g_cl_f) X(g_int_a) X(g_int_f) X(g_int_me) X(g_done) X(g_ad_a) X(g_ad_c) X(ADTHR) X(g_rel_c) X(BARRIER) X(NOKILL) X(FENCEANY) X(g_rdy) X(REGFIRST) X(DONEMAP) \
 X(OUNB) X(OWNV) X(MIG) X(FBOTH) X(g_ho_t) X(g_fin_c) X(g_fin_t) X(MATCHE) X(FINLOST) X(IMGUID) X(RELGONE) X(UIDCHK) X(TGTFENCE) X(REPAIR) X(BLKUP) X(BOOTHO) X(FINSRC) X(LATEBLK) X(ADOPTBOOT) X(DROPBLK) X(WITHDRAW) X(SILDEL) X(g_sil_a) X(g_sil_f)
#define D(x) static int x;
FL(D)
static const char* names="ABC";
struct Out{ function<void(const State&,int fault,const char*lab)> cb; };
static char lab[256];
template<class C> void gen(const State&s,C cb){
  // cb(next, fault, label)
  #define EMIT(flt,...) do{ snprintf(lab,256,__VA_ARGS__); cb(t,flt,lab);}while(0)
  auto bumpclaim=[&](State&t){t.st.clk++; t.st.crev=t.st.clk;};
  auto clearclaim=[&](State&t){t.st.cn=t.st.cs=t.st.ce=t.st.crev=t.st.cuid=t.st.ho=t.st.hos=t.st.hoe=0; t.st.clk++;};
  for(int i=0;i<N;i++){ const Node&n=s.n[i]; char I=names[i];
    // ---- environment on node i
    if(s.st.alive[i]&&s.b[BL]){State t=s;t.b[BL]--;t.st.alive[i]=0;EMIT(1,"env: lease of %c (session %d) lost",I,s.st.alive[i]);}
    if(s.st.alive[i]&&!n.up){State t=s;t.st.alive[i]=0;EMIT(0,"env: unrenewed lease of %c (session %d) expires",I,s.st.alive[i]);}
    // orphans
    if(n.odef){State t=s;t.n[i].odef=0; if(n.dom==DNONE){t.n[i].dom=DDEF;t.n[i].ds=n.os;t.n[i].de=n.oe;t.n[i].du=n.ou;} if(!n.ost&&!n.ors){t.n[i].os=t.n[i].oe=t.n[i].ou=0;} EMIT(0,"libvirtd %c: orphan define lands",I);}
    if(n.ost){State t=s;t.n[i].ost=0; if(DEFFIRST){ if(n.dom==DDEF&&n.du==n.ou)t.n[i].dom=DRUN;} else if(n.dom==DNONE||n.dom==DDEF){t.n[i].dom=DRUN;t.n[i].ds=n.os;t.n[i].de=n.oe;t.n[i].du=n.ou;} t.n[i].os=t.n[i].oe=t.n[i].ou=0; EMIT(0,"libvirtd %c: orphan start lands",I);}
    if(n.ors){State t=s;t.n[i].ors=0; if(n.dom==DREADY)t.n[i].dom=DRUN; EMIT(0,"libvirtd %c: orphan resume lands",I);}
    for(int j=0;j<N;j++) if(n.oblk>>j&1){State t=s;t.n[i].oblk&=~(1<<j);t.blk[j]=1;EMIT(0,"ceph: orphan block of %c (sent by %c) lands",names[j],I);}
    if(n.ounb){State t=s;t.n[i].ounb=0;t.blk[i]=0;EMIT(0,"ceph: orphan unblock of %c lands",I);}
    if(!n.up){ if(s.b[BR]){State t=s;t.b[BR]--;t.n[i].up=1;t.v[i]=s.st;EMIT(REPAIR?0:1,"host %c boots again",I);} goto nextnode; }
    {
    // host crash / agent crash
    for(int host=0;host<2;host++) if(s.b[host?BH:BC]){
      int nb= (!host&&n.bt)?2:1, nf=(n.fop==2)?2:1, nu=(n.unb==1&&OUNB)?2:1;
      for(int x=0;x<nb;x++)for(int y=0;y<nf;y++)for(int z=0;z<nu;z++){
        State t=s;Node&m=t.n[i]; t.b[host?BH:BC]--; 
        if(!host){ if(x){m.os=n.bs;m.oe=n.be;m.ou=n.bu; if(n.bt==1&&DEFFIRST)m.odef=1; else if(n.bt==3)m.ors=1; else m.ost=1;} }
        if(y)m.oblk|=1<<n.ftg; if(z)m.ounb=1;
        m.ses=m.clr=m.wrk=m.rthr=m.bt=m.bs=m.be=m.bu=m.fop=m.ftg=m.fir=m.unb=m.del=0; 
        if(host){m.up=0;m.dom=m.ds=m.de=m.du=m.odef=m.ost=m.ors=m.os=m.oe=m.ou=0;m.mg=m.mgt=m.mgs=m.mge=m.mgf=0;memset(&t.v[i],0,sizeof(Store));}
        else t.v[i]=s.st;
        EMIT(1,"env: %s crash on %c%s%s%s",host?"HOST":"agent",I,x?" (libvirt call in flight survives)":"",y?" (block cmd survives)":"",z?" (unblock cmd survives)":"");
      }}
    const Store&v=s.v[i]; const Store&c=s.st;
    if(memcmp(&v,&c,sizeof v)){State t=s;t.v[i]=s.st;EMIT(0,"%c: view catches up",I);}
    auto own=[&](State&t){ if(OWNV)t.v[i]=t.st; };
    // ---- threads
    if(n.bt==1){State t=s;Node&m=t.n[i]; if(DEFFIRST){ if(n.dom==DNONE||(!UNDEF&&n.dom==DDEF)){m.dom=DDEF;m.ds=n.bs;m.de=n.be;m.du=n.bu;m.bt=2;} else {m.bt=m.bs=m.be=m.bu=0;} EMIT(0,"%c: define (s%d e%d)",I,n.bs,n.be);}
      else { if(n.dom==DNONE||n.dom==DDEF){m.dom=DRUN;m.ds=n.bs;m.de=n.be;m.du=n.bu;} m.bt=m.bs=m.be=m.bu=0; EMIT(0,"%c: create (s%d e%d)",I,n.bs,n.be);} }
    if(n.bt==2){State t=s;Node&m=t.n[i]; if(n.dom==DDEF)m.dom=DRUN; m.bt=m.bs=m.be=m.bu=0; EMIT(0,"%c: start lands: domain (s%d e%d) runs%s",I,n.ds,n.de,s.blk[i]?" (blocked)":"");}
    if(n.bt==3){State t=s;Node&m=t.n[i]; if(n.dom==DREADY)m.dom=DRUN; m.bt=m.bs=m.be=m.bu=0; EMIT(0,"%c: resume lands: domain (e%d) runs",I,n.de);}
    if(n.unb==1){State t=s;t.n[i].unb=2;t.blk[i]=0;EMIT(0,"ceph: unblock of %c lands",I);}
    if(n.unb==2){State t=s;t.n[i].unb=0;EMIT(0,"%c: sees its unblock done",I);}
    // withdraw (the brake engaged while my intent was on its way): before any block was sent, and only what I opened (fop 1, not 4)
    if(s.b[BW]&&n.ses&&((n.fop==1&&WITHDRAW==1)||(WITHDRAW==2&&n.fop))&&(!g_done||c.frev[n.ftg]==n.fir)&&(!g_int_me||c.alive[i]==n.ses)){State t=s;int j=n.ftg;t.b[BW]--;
      t.st.ft[j]=t.st.fp[j];t.st.fd[j]=t.st.fp[j]?2:0;t.st.frev[j]++;if(n.fop==2)t.n[i].oblk|=1<<j;t.n[i].fop=t.n[i].ftg=t.n[i].fir=0;own(t);EMIT(0,"%c: WITHDRAWS its intent on %c",I,names[j]);}
    if(n.fop==1||n.fop==4){State t=s;t.n[i].fop=2;EMIT(0,"%c: sends block of %c",I,names[n.ftg]);}
    if(n.fop==2){State t=s;t.n[i].fop=3;t.blk[n.ftg]=1;EMIT(0,"ceph: block of %c (by %c) lands",names[n.ftg],I);}
    if(n.fop==3||(n.fop==2&&!DONEMAP)){State t=s;Node&m=t.n[i];int j=n.ftg; bool ok=(!g_done)||c.frev[j]==n.fir; if(n.fop==2)m.oblk|=1<<j;
      if(ok){t.st.fd[j]=2;t.st.fp[j]=t.st.ft[j];t.st.frev[j]++;own(t);} m.fop=m.ftg=m.fir=0; EMIT(0,"%c: fence of %c %s (through %d)",I,names[j],ok?"DONE":"done REFUSED",c.ft[j]);}
    // disk deletion thread
    if(n.del){State t=s;t.n[i].del=0; u8 bit= IMGUID? (1<<(n.del-1)):1; t.dsk&=~bit; EMIT(0,"%c: rbd rm lands",I);}
    bool gone = UNDEF? n.dom==DNONE : (n.dom==DNONE||n.dom==DDEF);
    auto kill=[&](State&t){Node&m=t.n[i]; if(NOKILL==1&&n.dom==DRUN)t.bad|=16; if(UNDEF||n.dom!=DRUN)  {m.dom=m.ds=m.de=m.du=0; if(!UNDEF){} } else m.dom=DDEF; };
    bool thr_idle = !n.bt;
    // ---- migration job in libvirtd (survives the agent)
    if(MIG&&n.mg){int j=n.mgt; const Node&p=s.n[j];
      if(n.mg==1){ if(p.up&&p.dom==DNONE){State t=s;t.n[j].dom=DINC;t.n[j].ds=n.mgs;t.n[j].de=n.mge;t.n[j].du=n.du;t.n[i].mg=2;EMIT(0,"mig %c>%c: incoming domain prepared",I,names[j]);}
        State t=s;t.n[i].mg=0;t.n[i].mgt=t.n[i].mgs=t.n[i].mge=0;t.n[i].mgf=1;EMIT(0,"mig %c>%c: fails before prepare",I,names[j]); }
      if(n.mg==2){ if(p.dom==DINC&&n.dom==DRUN){State t=s;t.n[i].dom=DPSRC;t.n[i].mg=3;EMIT(0,"mig %c>%c: source paused",I,names[j]);}
        State t=s;t.n[i].mg=t.n[i].mgt=t.n[i].mgs=t.n[i].mge=0;t.n[i].mgf=1;EMIT(0,"mig %c>%c: fails, source goes on",I,names[j]); }
      if(n.mg==3){ if(p.dom==DINC){State t=s;t.n[j].dom= MIG==1?DRUN:DREADY;t.n[i].mg=4;EMIT(0,"mig %c>%c: target %s",I,names[j],MIG==1?"RUNS":"ready (paused)");}
        else {State t=s;if(n.dom==DPSRC)t.n[i].dom=DRUN;t.n[i].mg=t.n[i].mgt=t.n[i].mgs=t.n[i].mge=0;t.n[i].mgf=1;EMIT(0,"mig %c>%c: target lost, source RESUMES",I,names[j]);} }
      if(n.mg==4){ State t=s;if(n.dom==DPSRC){t.n[i].dom=t.n[i].ds=t.n[i].de=t.n[i].du=0;}t.n[i].mg=t.n[i].mgt=t.n[i].mgs=t.n[i].mge=0;EMIT(0,"mig %c>%c: confirmed, source gone",I,names[j]);
        if(FINLOST&&s.b[BF]){State t=s;t.b[BF]--;if(n.dom==DPSRC)t.n[i].dom=DRUN;t.n[i].mg=t.n[i].mgt=t.n[i].mgs=t.n[i].mge=0;t.n[i].mgf=1;EMIT(1,"mig %c>%c: Finish reply lost, source RESUMES",I,names[j]);} }
    }
    if(n.dom==DINC){bool job=false;for(int j=0;j<N;j++)if(s.n[j].mg&&s.n[j].mgt==i)job=true; if(!job){State t=s;t.n[i].dom=t.n[i].ds=t.n[i].de=t.n[i].du=0;EMIT(0,"libvirtd %c: incoming domain cleaned up",I);} }
    if(n.dom==DPSRC&&!n.mg){/*cannot*/}
    // ---- unregistered
    if(!n.ses){
      bool drained = !n.bt&&!n.unb&&n.fop!=2&&!n.del&&!n.mg;
      bool fenced_dom = !gone && n.ds<=v.fp[i];
      if(!n.bt && !n.mg && ((KILLF&&fenced_dom)||(KILLALL&&!gone&&s.blk[i]))){State t=s;kill(t);EMIT(0,"%c: kills domain (s%d e%d) before register",I,n.ds,n.de);}
      if(n.mg&&(fenced_dom||(s.blk[i]))){State t=s; // abort job
        if(n.mg<=3){ if(n.dom==DPSRC)t.n[i].dom=DRUN; t.n[i].mg=t.n[i].mgt=t.n[i].mgs=t.n[i].mge=0;t.n[i].mgf=1;EMIT(0,"%c: aborts migration job",I);} }
      if(BARRIER&&(n.odef||n.ost||n.ors)){State t=s;Node&m=t.n[i];m.odef=m.ost=m.ors=m.os=m.oe=m.ou=0;EMIT(0,"%c: libvirtd restarted (queued calls dropped)",I);}
      bool ok = !(BARRIER&&(n.odef||n.ost||n.ors)) && (drained||!DRAIN) && !(KILLF&&fenced_dom) && !(KILLALL&&s.blk[i]&&!gone);
      if(!REGFIRST && s.blk[i] && ok && v.fd[i]!=1 && !n.unb && !n.clr){State t=s;t.n[i].unb=1;EMIT(0,"%c: sends unblock BEFORE register",I);}
      bool selff = SELFF && v.fd[i]==1 && drained && (SELFF==1||(SELFF==2&&v.fby[i]&&v.alive[v.fby[i]-1]==0));
      if(ok && (v.fd[i]!=1||!WAITF||selff) && (REGFIRST||!s.blk[i])){
        bool g = !g_reg_f || c.frev[i]==v.frev[i];
        if(g){State t=s; if(selff){t.st.ft[i]=v.fp[i];t.st.fd[i]=v.fp[i]?2:0;t.st.frev[i]++;}
          t.ns[i]++;t.st.alive[i]=t.ns[i];t.st.rdy[i]=0;t.n[i].ses=t.ns[i];t.n[i].clr=0;t.n[i].wrk=0;t.n[i].rthr= v.fp[i]; 
          
          own(t);EMIT(0,"%c: REGISTER session %d%s",I,t.ns[i],selff?" (cancels the unfinished intent on itself)":"");}
      }
      goto nextnode;
    }
    // ---- registered (believes session n.ses)
    if(c.alive[i]!=n.ses){State t=s;t.n[i].ses=t.n[i].clr=t.n[i].wrk=t.n[i].rthr=0;EMIT(0,"%c: notices its lease is lost",I);}
    if(!n.clr&&!s.blk[i]&&!n.unb&&!(OUNB==2&&n.ounb)&&(!g_rdy||c.alive[i]==n.ses)){State t=s;t.n[i].clr=1;if(c.alive[i]==n.ses)t.st.rdy[i]=1;own(t);EMIT(0,"%c: not blocked -> READY (s%d)",I,n.ses);}
    if(s.blk[i]&&!n.unb){
      if((UNBFIX==0&&c.alive[i]==n.ses&&n.ses>c.ft[i])||UNBFIX==3||(UNBFIX==1&&!n.clr&&n.dom==DNONE&&!n.bt)||(UNBFIX==2&&n.dom==DNONE&&!n.bt)) {State t=s;t.n[i].unb=1;if(UNBFIX!=1&&GATE)t.n[i].clr=0;EMIT(0,"%c: sends unblock of itself (session %d)",I,n.ses);}
      else if(UNBFIX){State t=s;t.n[i].ses=t.n[i].clr=t.n[i].wrk=t.n[i].rthr=0;EMIT(0,"%c: finds itself blocked, leaves session %d",I,n.ses);}
    }
    if(n.unb&&GATE) {} 
    bool may = n.clr||!GATE;
    int me=i+1;
    // claim
    if(may && v.son==ON && v.cn==0 && thr_idle){
      bool g=(!g_cl_c||c.crev==v.crev)&&(!g_cl_s||c.srev==v.srev)&&(!g_cl_a||c.alive[i]==n.ses);
      if(g){State t=s;Store&q=t.st; bumpclaim(t); q.cn=me;q.cs=n.ses;q.cuid=v.suid;q.ho=q.hos=q.hoe=0;q.ce= EPREV? q.clk : v.clk+1; 
        if(q.ce<=t.maxep)t.bad|=4; else t.maxep=q.ce; t.n[i].wrk=1; own(t);EMIT(0,"%c: CLAIM (s%d) epoch %d",I,n.ses,q.ce);}
    }
    // takeover
    if(may && v.cn && thr_idle){ int j=v.cn-1; bool fj= v.fd[j]==2&&v.cs<=v.ft[j];
      bool okh=true; int h=v.ho?v.ho-1:-1;
      if(h>=0&&MIG==1){ if(h!=i){ okh= !FBOTH || (v.fd[h]==2&&v.hos<=v.ft[h]); } else { okh = gone; if(!TGTFENCE) fj=true; } }
      if(fj&&okh&&!(j==i&&v.cs==n.ses)){
        bool g=(!g_cl_c||c.crev==v.crev)&&(!g_cl_s||c.srev==v.srev)&&(!g_cl_a||c.alive[i]==n.ses)&&(!g_cl_f||c.frev[j]==v.frev[j]||(h==i&&!TGTFENCE));
        if(h>=0&&MIG==1&&h!=i&&FBOTH) g=g&&(!g_cl_f||c.frev[h]==v.frev[h]);
        if(g){State t=s;Store&q=t.st;bumpclaim(t);q.cn=me;q.cs=n.ses;q.cuid=v.suid?v.suid:v.cuid;q.ho=q.hos=q.hoe=0;q.ce=EPREV?q.clk:v.clk+1;
          if(q.ce<=t.maxep)t.bad|=4; else t.maxep=q.ce; t.n[i].wrk=1; own(t);EMIT(0,"%c: TAKEOVER from %c (s%d) epoch %d",I,names[j],n.ses,q.ce);}
      }}
    // adopt
    if(may && v.cn==me && v.cs<n.ses && (!ADTHR||v.cs>n.rthr)){
      bool g=(!g_ad_c||c.crev==v.crev)&&(!g_ad_a||c.alive[i]==n.ses);
      if(g){State t=s;Store&q=t.st; if(!g_ad_c){q.cn=v.cn;q.ce=v.ce;q.cuid=v.cuid;q.ho=v.ho;q.hos=v.hos;q.hoe=v.hoe;} bumpclaim(t);q.cs=n.ses;t.n[i].wrk=1;own(t);EMIT(0,"%c: ADOPT claim -> s%d",I,n.ses);}
    }
    if(MIG && may && v.ho==me && v.hos<n.ses && v.hos>n.rthr){ bool g=c.crev==v.crev&&c.alive[i]==n.ses;
      if(g){State t=s;bumpclaim(t);t.st.hos=n.ses;t.n[i].wrk=1;own(t);EMIT(0,"%c: ADOPT target role -> s%d",I,n.ses);} }
    bool mine = v.cn==me && v.cs==n.ses;
    bool uidok = v.suid==v.cuid || !UIDCHK;
    // boot
    if(may && mine && v.son==ON && uidok && (!v.ho||!BOOTHO) && gone && thr_idle && !n.mg){
      State t=s;Node&m=t.n[i];m.bt=1;m.bs=n.ses;m.be=v.ce;m.bu=v.cuid;EMIT(0,"%c: decides BOOT (s%d e%d)",I,n.ses,v.ce);}
    // resume after finish (MIG==2)
    if(MIG==2 && may && mine && !v.ho && n.dom==DREADY && (n.de==v.ce||!MATCHE) && thr_idle && v.son==ON){
      State t=s;Node&m=t.n[i];m.bt=3;m.bs=n.ses;m.be=v.ce;m.bu=v.cuid; if(n.de!=v.ce)t.bad|=2; if(!MATCHE)m.de=v.ce; EMIT(0,"%c: decides RESUME (e%d)",I,v.ce);}
    // kill
    if(n.dom!=DNONE && thr_idle && !n.mg){ bool here = v.cn==me && v.cs>n.rthr; bool tgt= MIG && v.ho==me && v.hos>n.rthr && n.de==v.hoe && n.dom!=DDEF;
      bool k = (!here&&!tgt) || (here&&!tgt&&v.ce!=n.de&&!(MIG==2&&!MATCHE&&n.dom==DREADY)) || (n.dom==DDEF&&UNDEF) || (mine&&(v.son!=ON||!uidok)&&!v.ho);
      if(!UNDEF&&n.dom==DDEF)k=false;
      if(k){State t=s;kill(t);EMIT(0,"%c: kills domain (s%d e%d)",I,n.ds,n.de);} }
    // release
    if(mine && (gone||!RELGONE) && thr_idle && !n.mg && !v.ho){ bool off=v.son!=ON||!uidok;
      for(int d=0;d<2;d++) if(d?(!off&&s.b[BD]):off){
        bool g=!g_rel_c||c.crev==v.crev;
        if(g){State t=s;if(d)t.b[BD]--;clearclaim(t);own(t);EMIT(d,"%c: RELEASE%s",I,d?" (gives it back, spec still on)":"");} } }
    // disk removal
    if(v.son==GONE && v.cn==0 && !n.del && (s.dsk) && v.suid && (IMGUID? (s.dsk>>(v.suid-1)&1):(s.dsk&1))){State t=s;t.n[i].del=v.suid;EMIT(0,"%c: decides rbd rm (uid %d)",I,v.suid);}
    // fence
    for(int j=0;j<N;j++) if(j!=i&&!n.fop){
      bool inv=(v.cn==j+1&&!(v.fd[j]==2&&v.cs<=v.ft[j]))||(MIG==1&&v.ho==j+1&&!(v.fd[j]==2&&v.hos<=v.ft[j]));
      if(FENCEANY&&s.ns[j]>v.fp[j])inv=true; if(v.fd[j]!=1&&inv&&v.alive[j]==0){
        bool g=(!g_int_a||c.alive[j]==0)&&(!g_int_f||c.frev[j]==v.frev[j])&&(!g_int_me||c.alive[i]==n.ses);
        u8 th= THRU? s.ns[j] : (v.cn==j+1?v.cs:v.hos); if(th<c.ft[j])th=c.ft[j];
        if(g){State t=s;t.st.ft[j]=th;t.st.fd[j]=1;t.st.frev[j]++;t.st.fby[j]=me;t.n[i].fop=1;t.n[i].ftg=j;t.n[i].fir=t.st.frev[j];own(t);EMIT(0,"%c: INTENT to fence %c through %d",I,names[j],th);} }
      // a living node whose storage is silent: its alive key is deleted by the very transaction that opens the fence
      if(s.b[BS]&&n.clr&&v.fd[j]!=1&&inv&&v.alive[j]!=0){
        bool g=(!g_sil_a||c.alive[j]==v.alive[j])&&(!g_sil_f||c.frev[j]==v.frev[j])&&(!g_int_me||c.alive[i]==n.ses);
        u8 th= THRU? s.ns[j] : v.cs; if(th<c.ft[j])th=c.ft[j];
        if(g){State t=s;t.b[BS]--;if(SILDEL)t.st.alive[j]=0;t.st.ft[j]=th;t.st.fd[j]=1;t.st.frev[j]++;t.st.fby[j]=me;t.n[i].fop=1;t.n[i].ftg=j;t.n[i].fir=t.st.frev[j];own(t);EMIT(0,"%c: INTENT to fence the LIVING %c through %d",I,names[j],th);} }
      if(v.fd[j]==1&&(v.fby[j]==me||v.alive[v.fby[j]-1]==0)){
        bool g=(!g_int_f||c.frev[j]==v.frev[j])&&(!g_int_me||c.alive[i]==n.ses);
        if(g){State t=s;t.st.fd[j]=1;t.st.frev[j]++;t.st.fby[j]=me;t.n[i].fop=4;t.n[i].ftg=j;t.n[i].fir=t.st.frev[j];own(t);EMIT(0,"%c: takes over the INTENT on %c",I,names[j]);} }
    }
    // handover
    if(MIG){
      if(may&&mine&&n.dom==DRUN&&n.de==v.ce&&thr_idle&&v.son==ON&&!v.ho&&!n.mg&&s.b[BM]) for(int j=0;j<N;j++) if(j!=i&&v.alive[j]&&(v.rdy[j]||!g_ho_t)){
        bool g=c.crev==v.crev&&c.alive[i]==n.ses&&(!g_ho_t||(c.alive[j]==v.alive[j]&&c.rdy[j]));
        if(g){State t=s;t.b[BM]--;bumpclaim(t);t.st.ho=j+1;t.st.hos=v.alive[j];t.st.hoe=t.st.clk;own(t);t.n[i].mgf=0;EMIT(0,"%c: HANDOVER to %c (s%d)",I,names[j],v.alive[j]);} }
      if(mine&&v.ho&&n.dom==DRUN&&!n.mg&&!n.mgf&&thr_idle){State t=s;t.n[i].mg=1;t.n[i].mgt=v.ho-1;t.n[i].mgs=v.hos;t.n[i].mge=v.hoe;EMIT(0,"%c: starts migration job to %c",I,names[v.ho-1]);}
      if(MIG==1){ // target finishes; source aborts if its domain runs and no job
        if(v.ho==me&&v.hos==n.ses&&n.dom==DRUN&&n.de==v.hoe){bool g=(!g_fin_c||c.crev==v.crev)&&c.alive[i]==n.ses;
          if(g){State t=s;bumpclaim(t);t.st.cn=me;t.st.cs=n.ses;t.st.ce=n.de;t.st.cuid=v.cuid;t.st.ho=t.st.hos=t.st.hoe=0;if(t.st.ce<=t.maxep)t.bad|=4;else t.maxep=t.st.ce;own(t);EMIT(0,"%c: FINISH (target) epoch %d",I,t.st.ce);} }
        if(mine&&v.ho&&!n.mg&&thr_idle){ int h=v.ho-1; bool tf=v.fd[h]==2&&v.hos<=v.ft[h];
          if((n.dom==DRUN)||(gone&&tf)){bool g=c.crev==v.crev&&c.alive[i]==n.ses&&(n.dom==DRUN||c.frev[h]==v.frev[h]);
            if(g){State t=s;bumpclaim(t);if(gone){t.st.ce=t.st.clk;t.maxep=t.st.ce;}t.st.ho=t.st.hos=t.st.hoe=0;t.n[i].mgf=0;own(t);EMIT(0,"%c: ABORT handover%s",I,gone?" (target fenced)":"");} } }
      } else {
        if(mine&&v.ho&&!n.mg&&thr_idle){ int h=v.ho-1;
          if(gone||!FINSRC){bool g=(!g_fin_c||c.crev==v.crev)&&(!g_fin_t||c.alive[h]==v.hos);
            if(g){State t=s;bumpclaim(t);t.st.cn=h+1;t.st.cs=v.hos;t.st.ce=v.hoe;t.st.ho=t.st.hos=t.st.hoe=0;if(t.st.ce<=t.maxep)t.bad|=4;else t.maxep=t.st.ce;own(t);EMIT(0,"%c: FINISH (source) -> %c s%d epoch %d",I,names[h],v.hos,t.st.ce);} }
          {bool g=c.crev==v.crev&&c.alive[i]==n.ses; if(g){State t=s;bumpclaim(t);t.st.ho=t.st.hos=t.st.hoe=0;t.n[i].mgf=0;own(t);EMIT(0,"%c: ABORT handover",I);} }
        }
      }
      if(n.mg&&n.mg<=2&&!(v.cn==me&&v.ho==n.mgt+1)){State t=s;t.n[i].mg=t.n[i].mgt=t.n[i].mgs=t.n[i].mge=0;t.n[i].mgf=1;EMIT(0,"%c: cancels migration job",I);}
    }
    }
    nextnode:;
  }
  // operator
  if(s.b[BO]){
    if(s.st.son==ON){State t=s;t.b[BO]--;t.st.son=OFF;t.st.srev++;EMIT(1,"operator: VM off");}
    if(s.st.son==OFF){State t=s;t.b[BO]--;t.st.son=ON;t.st.srev++;EMIT(1,"operator: VM on");}
    if(s.st.son!=GONE){State t=s;t.b[BO]--;t.st.son=GONE;t.st.srev=0;EMIT(1,"operator: deletes VM");}
    if(s.st.son==GONE){State t=s;t.b[BO]--;t.st.son=ON;t.st.suid++;t.st.srev=10*t.st.suid;t.dsk|= IMGUID?(1<<(t.st.suid-1)):1;EMIT(1,"operator: re-creates VM, same name, uid %d",t.st.suid);}
  }
}
static int check(State&s){ int w=0; bool old=false; u8 mr=s.maxrun;
  int runuid[N],k=0;
  for(int i=0;i<N;i++) if(s.n[i].up&&s.n[i].dom==DRUN&&!s.blk[i]){ w++; runuid[k++]=s.n[i].du; if(s.n[i].de>s.maxrun)s.maxrun=s.n[i].de; }
  if(w>1){ bool same=!IMGUID; for(int a=0;a<k;a++)for(int b=a+1;b<k;b++)if(runuid[a]==runuid[b])same=true; if(same)s.bad|=1; }
  for(int i=0;i<N;i++) if(s.n[i].up&&s.n[i].dom==DRUN&&!s.blk[i]&&s.n[i].de<s.maxrun) s.bad|=2;
  if(s.st.son!=GONE){ u8 bit=IMGUID?(1<<(s.st.suid-1)):1; if(!(s.dsk&bit)) s.bad|=8; }
  return s.bad; }
static bool good(const State&s){ int w=0,run=0,own=-1; for(int i=0;i<N;i++) if(s.n[i].up&&s.n[i].dom==DRUN){ if(!s.blk[i]){w++;own=i;} run++; }
  bool any=false; for(int i=0;i<N;i++)any|=s.n[i].up; if(!any)return true;
  if(s.st.son==ON) return w==1&&s.st.cn==own+1&&s.n[own].ses==s.st.cs&&s.st.alive[own]==s.st.cs&&s.n[own].de==s.st.ce&&s.st.cuid==s.st.suid&&!s.st.ho;
  return w==0&&s.st.cn==0; }
// storage
static size_t MAXS=60000000; static vector<State> S; static vector<uint32_t> par; static vector<uint32_t> tab; static size_t mask;
static uint64_t H(const void*p,size_t n){const u8*b=(const u8*)p;uint64_t h=0x9E3779B97F4A7C15ull;size_t i=0;for(;i+8<=n;i+=8){uint64_t x;memcpy(&x,b+i,8);h=(h^x)*0xff51afd7ed558ccdull;h^=h>>32;}uint64_t x=0;memcpy(&x,b+i,n-i);h=(h^x)*0xc4ceb9fe1a85ec53ull;h^=h>>29;h*=0x94d049bb133111ebull;return h^(h>>32);}
static void grow(){ size_t nn=(mask+1)*2; vector<uint32_t> t(nn,0); mask=nn-1; for(size_t i=0;i<S.size();i++){size_t k=H(&S[i],sizeof(State))&mask;while(t[k])k=(k+1)&mask;t[k]=i+1;} tab.swap(t);}
static uint32_t find_or_add(const State&s,uint32_t p,bool&nw){ if(S.size()*10>(mask+1)*6)grow(); size_t k=H(&s,sizeof s)&mask; while(tab[k]){ if(!memcmp(&S[tab[k]-1],&s,sizeof s)){nw=false;return tab[k]-1;} k=(k+1)&mask;} S.push_back(s);par.push_back(p);tab[k]=S.size();nw=true;return S.size()-1;}
static void trace(uint32_t id){ vector<uint32_t> path; for(uint32_t x=id;;x=par[x]){path.push_back(x);if(x==par[x])break;} 
  for(int k=path.size()-1,st=0;k>0;k--,st++){ State a=S[path[k]]; string l="?"; bool found=false; gen(a,[&](State t,int flt,const char*lb){ if(found)return; check(t); if(!memcmp(&t,&S[path[k-1]],sizeof t)){l=lb;found=true;} }); printf("   %2d %s\n",st+1,l.c_str()); } }
int main(int argc,char**argv){
  #define DEF(x) F[#x]=1;
  FL(DEF)
  F["MIG"]=0;F["FINLOST"]=0;F["OUNB"]=0;F["REPAIR"]=0;F["SELFF"]=2;F["FENCEANY"]=0;F["NOKILL"]=0;
  map<string,int> B={{"L",0},{"C",0},{"H",0},{"O",0},{"D",0},{"M",0},{"R",0},{"F",0},{"W",0},{"S",0}}; int live=0,quiet=0; uint32_t stopmask=15; int late=0; bool pre=true;
  for(int i=1;i<argc;i++){string a=argv[i];auto e=a.find('=');string k=a.substr(0,e);int val=e==string::npos?1:atoi(a.c_str()+e+1);
    if(k=="live")live=val; else if(k=="max")MAXS=val*1000000ull; else if(k=="mask")stopmask=val; else if(k=="quiet")quiet=val; else if(k=="pre")pre=val; else if(B.count(k))B[k]=val; else if(F.count(k))F[k]=val; else {fprintf(stderr,"bad arg %s\n",k.c_str());return 2;} }
  #define LD(x) x=f(#x);
  FL(LD)
  mask=(1<<20)-1;tab.assign(mask+1,0);
  State s0;memset(&s0,0,sizeof s0);s0.st.son=ON;s0.st.suid=1;s0.st.srev=10;s0.dsk=1;
  for(int i=0;i<N;i++){s0.n[i].up=1; if(pre){s0.ns[i]=1;s0.st.alive[i]=1;s0.st.rdy[i]=1;s0.n[i].ses=1;s0.n[i].clr=1;}}
  if(pre){s0.st.cn=1;s0.st.cs=1;s0.st.clk=1;s0.st.ce=1;s0.st.crev=1;s0.st.cuid=1;s0.maxep=1;s0.n[0].wrk=1;}
  for(int i=0;i<N;i++)s0.v[i]=s0.st;
  fprintf(stderr,"");const char*bn[]={"L","C","H","O","D","M","R","F","W","S"}; for(int i=0;i<NB;i++)s0.b[i]=B[bn[i]];
  printf("sizeof=%zu ",sizeof(State));S.reserve(MAXS<45000000?MAXS:45000000);bool nw;find_or_add(s0,0,nw); auto t0=chrono::steady_clock::now(); size_t trans=0; int found=0; bool trunc=false;
  vector<uint32_t> eoff,edge; if(live)eoff.push_back(0);
  for(size_t k=0;k<S.size();k++){ State s=S[k]; 
    gen(s,[&](State t,int flt,const char*lb){ if(found)return; trans++; int b=check(t)&stopmask; if(S.size()>=MAXS){trunc=true; if(!live)return;} bool nw; if(trunc&&live){return;} uint32_t id=find_or_add(t,k,nw); if(live&&!flt&&id!=k)edge.push_back(id);
      if(b&&nw){ found=b; if(!quiet){printf("VIOLATION mask=%d (1=I1 two writers,2=I1+ old epoch writes after newer,4=I4 epoch,8=I2 disk)\n",b); trace(id);} } });
    if(live)eoff.push_back(edge.size()); if(found||trunc)break; }
  double dt=chrono::duration<double>(chrono::steady_clock::now()-t0).count();
  printf("%s states=%zu trans=%zu %.0fs%s\n",found?"VIOLATED":trunc?"truncated-ok":"OK",S.size(),trans,dt,trunc?" (TRUNCATED)":"");
  if(found) printf("violation-mask=%d\n",found);
  if(live&&!found&&!trunc){ vector<u8> ok(S.size(),0); size_t cnt=0; 
    // reverse graph
    vector<uint32_t> ro(S.size()+1,0); for(auto e:edge)ro[e+1]++; for(size_t i=0;i<S.size();i++)ro[i+1]+=ro[i]; vector<uint32_t> re(edge.size()); {vector<uint32_t> pos(ro.begin(),ro.end()-1); for(size_t i=0;i<S.size();i++)for(uint32_t e=eoff[i];e<eoff[i+1];e++)re[pos[edge[e]]++]=i;}
    vector<uint32_t> st; for(size_t i=0;i<S.size();i++)if(good(S[i])){ok[i]=1;st.push_back(i);cnt++;}
    size_t goods=cnt; while(!st.empty()){uint32_t x=st.back();st.pop_back();for(uint32_t e=ro[x];e<ro[x+1];e++)if(!ok[re[e]]){ok[re[e]]=1;cnt++;st.push_back(re[e]);}}
    printf("live: good=%zu, cannot reach good=%zu of %zu\n",goods,S.size()-cnt,S.size());
    for(size_t i=0;i<S.size();i++)if(!ok[i]){printf(" STUCK (shortest):\n");if(!quiet)trace(i); const State&s=S[i]; printf("   state: spec %d claim n%d s%d e%d ho%d/%d;",s.st.son,s.st.cn,s.st.cs,s.st.ce,s.st.ho,s.st.hos); for(int j=0;j<N;j++)printf(" %c:up%d ses%d alive%d fence(t%d d%d by%d) blk%d dom%d(s%d e%d) fop%d mg%d;",names[j],s.n[j].up,s.n[j].ses,s.st.alive[j],s.st.ft[j],s.st.fd[j],s.st.fby[j],s.blk[j],s.n[j].dom,s.n[j].ds,s.n[j].de,s.n[j].fop,s.n[j].mg);printf("\n");break;}
  }
  return found?1:0; }
